"""What every unit costs at every width, and how bytes are shared out."""
