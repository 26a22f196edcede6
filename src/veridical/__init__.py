"""veridical: find out which explanations of a neural network you may believe."""
