"""What is said between a client and a server: messages, questions, connections."""
