"""What a method is fitted on, and how a network is trained."""
