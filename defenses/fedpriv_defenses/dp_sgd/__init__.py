"""DP-SGD: differential privacy of single examples, or of users, by noise on every local step."""
