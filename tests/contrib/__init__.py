"""Tests of `wsclient.contrib`, with the real frameworks."""
