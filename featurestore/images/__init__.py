"""Where images come from, how they are decoded and what a network gets to see."""
