"""Programs that a model wrote, run where the kernel contains them and judged by a process they cannot reach.

`sandbox` starts two processes for each program, `worker` is what both run, `confinement` and `system_calls` what they
give up, `calls` how they talk. A worker imports these modules only, so they stand on the standard library.
"""
