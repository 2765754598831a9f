"""Endpoints, a file each: what a request may hold, how it is carried out, what is answered."""
