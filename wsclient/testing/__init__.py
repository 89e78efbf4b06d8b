"""What you need to test code that uses wsclient."""
