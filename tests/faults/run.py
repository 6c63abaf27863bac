#!/usr/bin/env python3
"""Every system call of a server fails in turn, on the real kernel, under a load that checks bytes.

    run.py [--cases N] [--seconds N] [--seed N] [--jobs N] [--busy | --short] [--write FILE] [PART...]

strace(1) makes a call of an example fail, with an errno that it may have (answers.py), at a place
among the first 200 calls of each thread. Each case is a process: see case.py. PARTs choose: a
server's kind, a call, an errno, or "KIND CALL ERRNO FIRST-LAST SEED", as printed for a case that
failed. On a busy machine --busy leaves out the bound of a stop at rest. --short runs the cases of
short.txt in that way. Needs strace and the C examples."""

import argparse
import collections
import concurrent.futures
import ctypes
import os
import pathlib
import random
import re
import signal
import ssl
import sys
import textwrap
import time

import answers
import case


FIRST = 200  # calls of each thread
BURST, LONGEST = 0.2, 5  # so many faults are several calls in a row, at most so many
PR_SET_PDEATHSIG = 1
UNJUDGED = ("not reached", "left out", "machine too busy")

tls = None


def prepare(is_busy):
    """In each process that runs cases."""
    global tls
    # So that the case under way takes its server and its folder with it, also where the parent ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if is_busy:
        case.AT_REST = case.STOP
    tls = ssl.create_default_context(cafile=str(case.DATA / "ca.pem"))


def run_case(fault):
    try:
        return case.Case(fault, tls).run()
    except SystemExit:  # which the pool would keep
        os._exit(1)
    except Exception as error:  # of this program: it must not end the campaign
        return case.Result(fault, [f"{type(error).__name__}: {error}"])


# -- the plan ---------------------------------------------------------------------------------


def places(calls):
    """For each system call: which calls of a thread can be made to fail. Those of the loader
    cannot: they stand before the first munmap(2) after the last mapping of a file."""
    first = calls[0][0]
    own = [(name, line) for thread, name, line in calls if thread == first]
    mapped = max(i for i, (name, line) in enumerate(own) if name == "mmap" and ">, 0" in line)
    ends = [i for i, (name, _) in enumerate(own) if i > mapped and name == "munmap"]
    loader = collections.Counter(name for name, _ in own[: (ends or [mapped])[0] + 1])
    found = collections.Counter((thread, name) for thread, name, _ in calls)
    numbers = collections.defaultdict(set)
    for (thread, name), count in found.items():
        numbers[name] |= set(range(loader[name] + 1, min(count, loader[name] + FIRST) + 1))
    return {name: sorted(those) for name, those in numbers.items() if those}


def plan(seen, cases, dice):
    """The faults: each pair of call and errno of each kind in turn, each place once."""
    left = []
    for kind, numbers in seen.items():
        for call in sorted(set(numbers) & set(answers.ANSWERS)):
            for errno in answers.ANSWERS[call]:
                if not answers.left_out(call, errno, kind, ""):
                    left.append((kind, call, errno, dice.sample(numbers[call], len(numbers[call]))))
    faults = []
    while left and len(faults) < cases:
        dice.shuffle(left)
        for kind, call, errno, numbers in left:
            first = numbers.pop()
            length = dice.randint(2, LONGEST) if dice.random() < BURST else 1
            seed = dice.randrange(1 << 32)
            faults.append(case.Fault(kind, call, errno, first, first + length - 1, seed))
        left = [entry for entry in left if entry[3]]
    return faults[:cases]


def given(text):
    """The fault that a line names, None where it is none."""
    found = re.fullmatch(r"(\S+) (\w+) (\w+) (\d+)-(\d+) (\d+)", text)
    return found and case.Fault(*found.groups()[:3], *map(int, found.groups()[3:]))


# -- the results ------------------------------------------------------------------------------


class Matrix:
    OUTCOMES = [
        "all served",
        "one lost",
        "start failed",
        "listener lost, said",
        "aborted: no memory",
    ]

    def __init__(self):
        self.counts = collections.defaultdict(collections.Counter)
        self.outcomes = collections.Counter()
        self.failed, self.longest, self.starts = [], 0.0, set()

    def add(self, result):
        fault = result.fault
        outcome = "failed" if result.wrong else result.outcome
        self.outcomes[outcome] += 1
        if result.wrong:
            self.failed.append(result)
            print(f"FAIL {fault}: {'; '.join(result.wrong)}", flush=True)
            if result.said.strip():
                print("     " + result.said.strip()[-300:].replace("\n", "\n     "), flush=True)
        elif outcome not in UNJUDGED:
            self.longest = max(self.longest, result.stop_seconds)
        if outcome == "start failed":
            said = re.sub(r"/\w+(/shm)?/faults-\w+", "…", result.said.strip().split("\n")[-1])
            self.starts.add((fault.call, said))
        self.counts[fault.call, fault.errno][outcome] += 1

    def judged(self):
        return sum(n for outcome, n in self.outcomes.items() if outcome not in UNJUDGED)

    def lines(self):
        yield "| call | errno | cases | " + " | ".join(self.OUTCOMES) + " | failed |"
        yield "|---|---|" + "--:|" * (len(self.OUTCOMES) + 2)
        rank = {call: i for i, call in enumerate(answers.ANSWERS)}
        for call, errno in sorted(self.counts, key=lambda pair: (rank[pair[0]], pair[1])):
            count = self.counts[call, errno]
            columns = [count[outcome] for outcome in [*self.OUTCOMES, "failed"]]
            if any(columns):
                texts = [str(n) if n else "" for n in [sum(columns), *columns]]
                yield f"| {call} | {errno} | " + " | ".join(texts) + " |"


def left_out_lines(calls):
    """The calls that were made and were not failed, and the answers, with the reasons."""
    for names, reason in answers.CALLS_LEFT_OUT.items():
        made = [f"`{name}`" for name in names.split() if name in calls]
        if made:
            yield f"- {', '.join(made)}: {reason}."
    for names, errno, kind, pattern, reason in answers.ANSWERS_LEFT_OUT:
        what = ", ".join(f"`{name}`" for name in answers.ANSWERS if re.fullmatch(names, name))
        what += f" ({errno.replace('|', ', ')})" * bool(errno)
        what += f" in {kind.replace('|', ' and ')}" * bool(kind)
        yield f"- {what}: {reason}."


def write(path, text):
    """Puts the text between the markers of the document."""
    begin, end = "<!-- make faults: begin -->", "<!-- make faults: end -->"
    document = path.read_text()
    before, _, rest = document.partition(begin)
    _, marker, after = rest.partition(end)
    if not marker:
        raise SystemExit(f"{path} lacks the lines {begin} and {end}")
    path.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")


def summary(matrix, seen, seed, seconds):
    calls = {name for numbers in seen.values() for name in numbers}
    release = os.uname().release
    lines = [
        f"Seed {seed}, Linux {release}, {seconds / 60:.0f} minutes: {matrix.judged()} cases, "
        f"{len(matrix.failed)} failed.",
        f"In {matrix.outcomes['not reached']} more the call was not made so often,",
        f"in {matrix.outcomes['left out']} it was one whose answer is left out,",
        f"in {matrix.outcomes['machine too busy']} the machine was so busy that deadlines passed.",
        f"The longest stop took {matrix.longest:.1f} s.",
        "",
        *matrix.lines(),
        "",
        "Left out, because no kernel answers so, or the answer says nothing of the library:",
        "",
        *(textwrap.fill(line, 100, subsequent_indent="  ") for line in left_out_lines(calls)),
    ]
    return "\n".join(lines) + "\n"


# -- the run ----------------------------------------------------------------------------------


def observe(pool, kinds):
    """A run of each kind without a fault, which must be good."""
    seen, wrong = {}, []
    for result in pool.map(run_case, [case.Fault(kind, seed=1) for kind in kinds]):
        kind = result.fault.kind
        if result.wrong:
            wrong.append(f"{kind} without a fault: {'; '.join(result.wrong)} {result.said}")
            continue
        seen[kind] = places(result.calls)
        unknown = [
            call
            for call in sorted(seen[kind])
            if call not in answers.ANSWERS and not answers.call_left_out(call)
        ]
        if unknown:
            wrong.append(f"{kind} makes calls that answers.py does not know: {', '.join(unknown)}")
    return seen, wrong


def chosen(fault, parts):
    return all(part in (fault.kind, fault.call, fault.errno) for part in parts)


def carry_out(pool, faults, matrix, options, until):
    """Runs the cases until so many are judged; what was not judged does not count."""
    faults.reverse()
    under_way, told = set(), 0
    while True:
        room = options.cases - matrix.judged() - len(under_way) if options.cases else len(faults)
        while faults and room > 0 and len(under_way) < 2 * options.jobs:
            if time.monotonic() > until:
                break
            under_way.add(pool.submit(run_case, faults.pop()))
            room -= 1
        if not under_way:
            return
        done, under_way = concurrent.futures.wait(
            under_way, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for future in done:
            matrix.add(future.result())
        if matrix.judged() // 100 > told:
            told = matrix.judged() // 100
            every = matrix.judged() + len(under_way) + len(faults)
            print(f"{matrix.judged()} of {min(every, options.cases or every)} cases", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=3000, help="at most; 0: all places")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("parts", nargs="*")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    began, matrix = time.monotonic(), Matrix()
    if options.short:
        lines = pathlib.Path(__file__).with_name("short.txt").read_text().splitlines()
        options.parts, options.busy = lines, True
    faults = [fault for text in options.parts if (fault := given(text))]
    with concurrent.futures.ProcessPoolExecutor(
        options.jobs, initializer=prepare, initargs=(options.busy,)
    ) as pool:
        seen, wrong = ({}, []) if faults else observe(pool, case.KINDS)
        if not faults:
            every = plan(seen, 1 << 30, random.Random(options.seed))
            faults = [fault for fault in every if chosen(fault, options.parts)]
        carry_out(pool, faults, matrix, options, began + options.seconds)
    seconds = time.monotonic() - began
    for line in [*matrix.lines(), *(f"{call}: {said}" for call, said in sorted(matrix.starts))]:
        print(line)
    outcomes = ", ".join(f"{name} {count}" for name, count in matrix.outcomes.most_common())
    print(f"{seconds:.0f} s; {outcomes}; the longest stop took {matrix.longest:.1f} s")
    for line in wrong:
        print(f"FAIL {line}")
    if options.write:
        write(options.write, summary(matrix, seen, options.seed, seconds))
    failed = len(matrix.failed) + len(wrong)
    passed = matrix.judged() - len(matrix.failed)
    print(f"faults: {passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
