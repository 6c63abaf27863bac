#!/usr/bin/env python3
"""TLS from end to end: clients of other makers, what is promised, and hostile input, in both modes.

Needs examples/tls_server (make examples-rust) and the tools that scripts/deps installs."""

import common
import harness
import clients
import conversations
import hostile
import promises
import tickets

if __name__ == "__main__":
    arguments = harness.parse_arguments()
    common.make_certificates()
    modules = [clients, promises, tickets, hostile, conversations]
    listed = [check for module in modules for check in module.checks()]
    harness.main("tls", common.in_both_modes(listed), arguments.only)
