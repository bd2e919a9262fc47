"""What people do with validity scores, and where: each plugin lives in the tool it serves."""
