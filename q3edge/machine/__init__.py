"""What this machine is and can do: CPU, memory, speed, installed packages."""
