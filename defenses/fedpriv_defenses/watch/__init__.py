"""What clients can do against a malicious server: look at what they were sent, and compare it."""
