"""What an operator asks: how far things are, whether they are well, and how fast they answer."""
