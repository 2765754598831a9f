"""The safetensors format: one file read and written, and the files of a folder as one."""
