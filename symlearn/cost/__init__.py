"""What a fit would cost before it is run: memory and time, worked out on shapes and a few timed steps."""
