#!/usr/bin/env python3
"""Watches an agent for a minute and compares what it says with nvidia-smi.

usage: gpu-check.py PID PORT OUT; see gpu-check.sh
"""
import csv, os, re, subprocess, sys, time, urllib.request

pid, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
SECONDS, LOOKS = int(os.environ.get("GPU_CHECK_SECONDS", 60)), 6
TICKS = os.sysconf("SC_CLK_TCK")

# What nvidia-smi calls it, what the agent calls it, and the factor between them.
FIGURES = [
    ("temperature.gpu", "vigil_gpu_temperature_celsius", 1),
    ("temperature.gpu.tlimit", "vigil_gpu_temperature_margin_celsius", 1),
    ("temperature.memory", "vigil_gpu_memory_temperature_celsius", 1),
    ("power.draw", "vigil_gpu_power_watts", 1),
    ("power.draw.average", "vigil_gpu_power_average_watts", 1),
    ("power.draw.instant", "vigil_gpu_power_instant_watts", 1),
    ("enforced.power.limit", "vigil_gpu_power_limit_watts", 1),
    ("power.default_limit", "vigil_gpu_power_limit_default_watts", 1),
    ("clocks.sm", "vigil_gpu_sm_clock_hertz", 1e6),
    ("clocks.mem", "vigil_gpu_memory_clock_hertz", 1e6),
    ("clocks.max.sm", "vigil_gpu_sm_clock_max_hertz", 1e6),
    ("clocks.max.mem", "vigil_gpu_memory_clock_max_hertz", 1e6),
    ("memory.total", "vigil_gpu_memory_total_bytes", 1 << 20),
    ("memory.used", "vigil_gpu_memory_used_bytes", 1 << 20),
    ("memory.reserved", "vigil_gpu_memory_reserved_bytes", 1 << 20),
    ("utilization.gpu", "vigil_gpu_utilization_ratio", 0.01),
    ("utilization.memory", "vigil_gpu_memory_utilization_ratio", 0.01),
    ("utilization.encoder", "vigil_gpu_encoder_utilization_ratio", 0.01),
    ("utilization.decoder", "vigil_gpu_decoder_utilization_ratio", 0.01),
    ("ecc.errors.corrected.volatile.total", "vigil_gpu_ecc_corrected_errors_total", 1),
    ("ecc.errors.uncorrected.volatile.total", "vigil_gpu_ecc_uncorrected_errors_total", 1),
    ("ecc.errors.corrected.aggregate.total", "vigil_gpu_ecc_corrected_errors_lifetime_total", 1),
    ("ecc.errors.uncorrected.aggregate.total", "vigil_gpu_ecc_uncorrected_errors_lifetime_total", 1),
    ("pcie.link.gen.current", "vigil_gpu_pcie_generation", 1),
    ("pcie.link.gen.max", "vigil_gpu_pcie_generation_max", 1),
    ("pcie.link.width.current", "vigil_gpu_pcie_width", 1),
    ("pcie.link.width.max", "vigil_gpu_pcie_width_max", 1),
    ("pstate", "vigil_gpu_performance_state", 1),
    ("clocks_event_reasons.sw_power_cap", 'vigil_gpu_throttled:power_cap', 1),
    ("clocks_event_reasons.hw_slowdown", 'vigil_gpu_throttled:hardware_slowdown', 1),
    ("clocks_event_reasons.hw_thermal_slowdown", 'vigil_gpu_throttled:hardware_thermal', 1),
    ("clocks_event_reasons.sw_thermal_slowdown", 'vigil_gpu_throttled:software_thermal', 1),
    ("persistence_mode", "vigil_gpu_persistence_mode", 1),
    ("compute_mode", "vigil_gpu_compute_mode", 1),
    ("fabric.state", "vigil_gpu_fabric_state", 1),
]
WORDS = {"active": 1, "not active": 0, "enabled": 1, "disabled": 0, "default": 0, "completed": 3, "in progress": 2, "not started": 1}


def scrape():
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()


def own(text):
    """The agent's figures by GPU and name."""
    found = {}
    for line in text.splitlines():
        m = re.match(r'(vigil_gpu_\w+)\{([^}]*)\} (\S+)', line)
        if m:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', m[2]))
            name = m[1] + (":" + labels["reason"] if m[1] == "vigil_gpu_throttled" else "")
            found[labels.get("gpu"), name] = float(m[3])
    return found


def smi(fields):
    """nvidia-smi's figures by GPU and field; one that it does not know is left out."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=index," + ",".join(fields), "--format=csv,noheader,nounits"],
                              capture_output=True, text=True, timeout=20)
    except OSError:
        return {}
    if done.returncode and len(fields) > 1:
        both = {}
        for f in fields:
            both.update(smi([f]))
        return both
    if done.returncode:
        print(f"nvidia-smi has no {fields[0]}: {done.stdout.strip()[:80]}")
        return {}
    found = {}
    for row in csv.reader(done.stdout.splitlines()):
        row = [c.strip() for c in row]
        for f, value in zip(fields, row[1:]):
            value = WORDS.get(value.lower(), value.lstrip("P") if f == "pstate" else value)
            try:
                found[row[0], f] = float(value)
            except ValueError:
                found.setdefault((row[0], f), None)
    return found


def cpu(p):
    try:
        rest = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()
        return (int(rest[11]) + int(rest[12])) / TICKS
    except OSError:
        return 0.0


def memory(p):
    text = open(f"/proc/{p}/status").read()
    kib = {k: int(v) for k, v in re.findall(r"(VmRSS|VmHWM|RssAnon|RssFile):\s+(\d+)", text)}
    return ", ".join(f"{k} {v / 1024:.1f} MiB" for k, v in kib.items())


def children(p):
    return [int(c) for c in subprocess.run(["pgrep", "-P", str(p)], capture_output=True, text=True).stdout.split()]


began = time.time()
while time.time() - began < 20:
    try:
        if "vigil_gpu_info" in scrape():
            break
    except OSError:
        pass
    time.sleep(0.02)
print(f"GPUs were measured {time.time() - began:.2f} s after the start")
fields = list(smi([f for f, _, _ in FIGURES]))
fields = [f for f, _, _ in FIGURES if any(k[1] == f for k in fields)]
# nvidia-smi does not count as the agent's cost; the first seconds count as its start.
helpers = children(pid)
before, since = [cpu(pid)] + [cpu(h) for h in helpers], time.time()
rows = []
for look in range(LOOKS):
    time.sleep(SECONDS / LOOKS)
    text = scrape()
    rows.append((own(text), smi(fields) if fields else {}))
open(f"{out}/metrics.txt", "w").write(text)
spent = time.time() - since
after = [cpu(pid)] + [cpu(h) for h in helpers]
per_minute = [(b - a) / spent * 60 for a, b in zip(before, after)]
print(f"agent:  {per_minute[0]:.3f} CPU s/min, {memory(pid)}")
for h, c in zip(helpers, per_minute[1:]):
    print(f"helper: {c:.3f} CPU s/min, {memory(h)}")
print(f"\n{'nvidia-smi':42} {'gpu':>3} {'nvidia-smi':>22} {'vigil-agent':>22}  agrees")
with open(f"{out}/nvidia-smi.csv", "w") as f:
    w = csv.writer(f)
    w.writerow(["look", "gpu", "field", "nvidia_smi", "vigil_agent"])
    bad = 0
    for field, name, unit in FIGURES:
        for gpu in sorted({k[0] for _, s in rows for k in s}):
            theirs = [s.get((gpu, field)) for _, s in rows]
            ours = [o.get((gpu, name)) for o, _ in rows]
            for i, (t, o) in enumerate(zip(theirs, ours)):
                w.writerow([i, gpu, field, t, o])
            t = [x * unit for x in theirs if x is not None]
            o = [x for x in ours if x is not None]
            if not t and not o:
                verdict, a, b = "both have none", "-", "-"
            elif not t or not o:
                verdict, a, b = "ONE HAS NONE", t[:1] or "-", o[:1] or "-"
                bad += 1
            else:
                a, b = f"{min(t):g}..{max(t):g}", f"{min(o):g}..{max(o):g}"
                # The looks are not at one moment: what moves must meet, within a tenth.
                slack = 0.1 * max(abs(max(t)), abs(max(o))) if max(t) != min(t) or max(o) != min(o) else unit / 2
                verdict = "yes" if min(t) - slack <= max(o) and min(o) - slack <= max(t) else "NO"
                bad += verdict == "NO"
            print(f"{field:42} {gpu:>3} {str(a):>22} {str(b):>22}  {verdict}")
print(f"{bad} figures do not agree")
