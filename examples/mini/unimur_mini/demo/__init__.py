"""`unimur demo`: example dialogues with answers from a gallery of real images, as a page and a contact sheet."""
