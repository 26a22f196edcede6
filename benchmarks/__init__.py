"""Speed side by side with the peers, as multiples of one forward pass of the same batch."""
