"""Countdown with written-out search: the embedded task that trains on a CPU in minutes.

`problems` makes them, `solver` demonstrates, `checker` grades exactly, `tokenizer` spells, `waste` says where the
tokens went.
"""
