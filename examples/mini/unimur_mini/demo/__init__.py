"""`unimur demo`: example dialogues, answered from a gallery of real images, on a page and a contact sheet."""
