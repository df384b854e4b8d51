"""Has what a user's shell leaves behind: a pipeline in the background, and one under nohup."""

import subprocess
import time

text = "yes | cat >/dev/null & nohup sleep 1000 >/dev/null 2>&1 &"
subprocess.run(["sh", "-c", text], check=True, stdin=subprocess.DEVNULL)
print("ready", flush=True)
time.sleep(600)
