"""Scenarios that are programs of their own: they drive a server from outside and say by their exit code how it went."""

import subprocess
import threading

# Every wait inside a scenario ends by itself before.
TIMEOUT_S = 600
# The line with which a scenario asks for the server to be killed and started again; it goes on when it reads a line.
RESTART = "restart\n"


def run(name, command, server):
    """Runs a scenario, and kills and starts the server whenever it asks for that; its complaints are the failure's."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    alarm = threading.Timer(TIMEOUT_S, process.kill)
    alarm.start()
    complaints = []
    try:
        for line in process.stdout:
            if line != RESTART:
                complaints.append(line)
                continue
            server.kill()
            server.start()
            process.stdin.write("\n")
            process.stdin.flush()
        status = process.wait()
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    assert status == 0, "%s ended with %d:\n%s" % (name, status, "".join(complaints))
