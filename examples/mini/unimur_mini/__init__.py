"""Code that only the mini models need: their corpora, the training of their small dual encoder, and the demo.

`modeling_unimur` imports this package only by the names in `modeling_unimur.data.registry`.
"""
