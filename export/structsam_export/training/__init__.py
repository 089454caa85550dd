"""Training of the small SAM that ships with this project; scripts/train_nano.py is its command."""
