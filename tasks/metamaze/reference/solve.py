"""Reference: there is nothing to train; see policy.py."""

print("policy.py needs no training")
