"""What is true: pure rules without any I/O."""
