"""`unimur demo`: example dialogues, answered from a gallery of real pictures, on a page and a contact sheet."""
