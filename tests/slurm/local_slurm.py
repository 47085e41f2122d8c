"""A small but real Slurm on this machine: Debian's own slurmctld, slurmd and munged, with pretended GPUs.

    eval "$(python tests/slurm/local_slurm.py up DIR)"       and then: sbatch, squeue, scancel, ...
    python tests/slurm/local_slurm.py down DIR

Allocation, time limits, --signal, requeue, arrays and exit codes are Slurm's own. GPUs are counted and handed out, but
no device is behind them; CPUs and memory are as many as configured; there is no accounting. Started by root, every node
is a host with a network, a name and processes of its own (Linux namespaces): "localhost" of one node is not that
of the other. Otherwise all nodes share this machine's network.

DIR holds all that the cluster writes; sockets live in it, so its path must be short.
"""

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PACKAGES = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
LONGEST_PATH = 60  # of DIR: the path of a socket has at most 107 bytes
KEPT_LOG = 15  # lines shown of each log after a failed start
# --kill-child: all processes of the namespaces end with `unshare` itself.
UNSHARE = ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
# What an isolated host does first; it waits for its network cable.
HOST = """\
set -eu
name=$1 address=$2 hosts=$3; shift 3
hostname "$name"
[ ! -e /etc/hosts ] || mount --bind "$hosts" /etc/hosts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip address add "$address/24" dev eth0
ip link set eth0 up
"$@" &
wait $!
"""
# No cgroups, no CPU binding, no accounting; believe the CPUs and the memory of this file.
SETTINGS = """\
ClusterName=local
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
GresTypes=gpu
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
EnforcePartLimits=ALL
JobRequeue=0
ReturnToService=2
MinJobAge=86400
KillWait=10
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5
"""


class ClusterError(Exception):
    """The cluster cannot be started, and why."""


@dataclass(frozen=True)
class Host:
    """Where a daemon runs."""

    name: str
    hostname: str
    address: str
    port: int


def with_sbin() -> dict[str, str]:
    """This process's environment without any job or cluster, and with the folders of the daemons on PATH."""
    foreign = ("SLURM_", "SLURMD_", "SBATCH_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return {**env, "PATH": f"{env.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"}


def why_not() -> str:
    """Why there can be no cluster here; empty if nothing is known to be in the way."""
    missing = sorted(package for tool, package in PACKAGES.items() if not shutil.which(tool, path=with_sbin()["PATH"]))
    if missing:
        names = " ".join(missing)
        return f"Slurm is not installed: apt-get install --no-install-recommends {names}"
    return "" if sys.platform == "linux" else "Slurm runs on Linux only"


def run(*command: str) -> str:
    """The output of a command."""
    done = subprocess.run(command, env=with_sbin(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def can_isolate() -> bool:
    """Whether this process may make network devices and namespaces."""
    if os.geteuid():
        return False
    probe = f"lsprobe{os.getpid() % 1000000}"
    try:
        run("ip", "link", "add", probe, "type", "bridge")
        run("ip", "link", "delete", probe)
        run(*UNSHARE, "true")
    except (ClusterError, FileNotFoundError):
        return False
    return True


def wait_for(condition, seconds, every=0.05) -> bool:
    """Whether the condition came true within the time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


def started_at(pid: int) -> str:
    """The start time of a live process; empty for a dead one. It tells apart processes that had the same number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Cluster:
    """A cluster in a folder. `up` starts it and waits until all nodes are idle; `down` ends it and all its jobs."""

    def __init__(self, folder, *, nodes: int = 2, gpus: int = 4, cpus: int = 8) -> None:
        self.folder = Path(folder).absolute()
        self.num_nodes, self.gpus, self.cpus = nodes, gpus, cpus
        self.conf, self.log, self.pids = (self.folder / name for name in ("etc/slurm.conf", "log", "run"))
        tag = hashlib.sha1(str(self.folder).encode()).hexdigest()[:6]
        self.bridge, self.tag = f"ls{tag}", int(tag, 16)
        self.is_isolated = False

    @property
    def environment(self) -> dict[str, str]:
        """What commands of this cluster need."""
        return {**with_sbin(), "SLURM_CONF": str(self.conf)}

    def call(self, *command: str) -> str:
        """The output of a Slurm command; empty if it failed."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        return "" if done.returncode else done.stdout

    def up(self, seconds: float = 60.0) -> None:
        """Start everything.

        Raises:
            ClusterError: a package is missing, a daemon ends early, or the nodes are not idle in time.
        """
        if reason := why_not():
            raise ClusterError(reason)
        if len(str(self.folder)) > LONGEST_PATH:
            raise ClusterError(f"the path is longer than {LONGEST_PATH} characters: {self.folder}")
        self.is_isolated = can_isolate()
        controller, nodes = self._plan()
        self._configure(controller, nodes)
        try:
            self._start_all(controller, nodes)
            if not wait_for(lambda: self._is_idle(len(nodes)), seconds):
                raise ClusterError(f"not all nodes are idle after {seconds:.0f} s: {self.call('sinfo')}")
        except ClusterError as error:
            logs = sorted(self.log.glob("*"))
            tails = [f"--- {p.name}\n" + "\n".join(p.read_text().splitlines()[-KEPT_LOG:]) for p in logs]
            self.down()
            raise ClusterError("\n".join([str(error), *tails])) from error

    def down(self) -> None:
        """End the jobs and the daemons, and delete the folder."""
        if not self.is_isolated and self.call("squeue", "--noheader"):
            self.call("scancel", "--user", self._user())  # jobs outlive slurmd
            wait_for(lambda: not self.call("squeue", "--noheader").strip(), 15)
        for file in sorted(self.pids.glob("*.pid"), key=lambda f: -f.stat().st_mtime_ns):
            pid, started = file.read_text().split()
            is_host = self.is_isolated and file.stem != "munged"
            for number in (signal.SIGKILL if is_host else signal.SIGTERM, signal.SIGKILL):
                if started_at(int(pid)) == started:
                    os.kill(int(pid), number)
                    wait_for(lambda pid=pid, started=started: started_at(int(pid)) != started, 10)
        if Path(f"/sys/class/net/{self.bridge}").exists():
            run("ip", "link", "delete", self.bridge)
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _user() -> str:
        return pwd.getpwuid(os.geteuid()).pw_name

    def _plan(self) -> tuple[Host, list[Host]]:
        names = [f"node{number}" for number in range(1, self.num_nodes + 1)]
        if self.is_isolated:
            used = run("ip", "-oneline", "-4", "address")
            nets = (f"198.18.{(self.tag + n) % 254 + 1}" for n in range(254))  # a range reserved for tests
            net = next(net for net in nets if f" {net}." not in used)
            nodes = [Host(name, name, f"{net}.{number}", 6818) for number, name in enumerate(names, 11)]
            return Host("controller", "controller", f"{net}.2", 6817), nodes
        here = socket.gethostname().split(".")[0]
        first, *ports = free_ports(1 + len(names))
        nodes = [Host(name, here, "127.0.0.1", port) for name, port in zip(names, ports, strict=True)]
        return Host(here, here, "127.0.0.1", first), nodes

    def _configure(self, controller: Host, nodes: list[Host]) -> None:
        for name in ("etc", "run", "log", "ctld", "dev", *(f"spool/{node.name}" for node in nodes)):
            (self.folder / name).mkdir(parents=True)
        lines = [
            SETTINGS.strip(),
            f"SlurmctldHost={controller.name}({controller.address})",
            f"SlurmctldPort={controller.port}",
            f"SlurmUser={self._user()}",
            f"SlurmdUser={self._user()}",
            f"AuthInfo=socket={self.pids}/munge.socket,cred_expire=5",  # a requeued job may start again after 5 s
            f"StateSaveLocation={self.folder}/ctld",
            f"SlurmdSpoolDir={self.folder}/spool/%n",
            f"SlurmctldPidFile={self.pids}/slurmctld.own",
            f"SlurmdPidFile={self.pids}/%n.own",
            f"SlurmctldLogFile={self.log}/slurmctld.log",
            f"SlurmdLogFile={self.log}/%n.log",
            f"FirstJobId={int(time.time()) % 1000000 * 20 + 1}",  # no job meets the files of an earlier cluster
            *(
                f"NodeName={n.name} NodeHostname={n.hostname} NodeAddr={n.address} Port={n.port} CPUs={self.cpus} "
                f"SocketsPerBoard=1 CoresPerSocket={self.cpus} ThreadsPerCore=1 RealMemory=512000 Gres=gpu:{self.gpus}"
                for n in nodes
            ),
            "PartitionName=gpu Nodes=ALL Default=YES State=UP DefaultTime=01:00:00 MaxTime=UNLIMITED",
        ]
        self.conf.write_text("\n".join(lines) + "\n")
        for number in range(self.gpus):  # Slurm reads the number off the name and wants a device; any will do
            (self.folder / f"dev/nvidia{number}").symlink_to(os.devnull)
        gres = f"Name=gpu File={self.folder}/dev/nvidia[0-{self.gpus - 1}] Flags=nvidia_gpu_env\n"
        (self.conf.parent / "gres.conf").write_text("AutoDetect=off\n" + gres)
        version = run("slurmd", "-V").split()[-1].split(".")
        if (int(version[0]), int(version[1])) >= (23, 11):  # these look for cgroups unless told not to
            (self.conf.parent / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        (self.conf.parent / "host").write_text(HOST)
        known = Path("/etc/hosts").read_text() if Path("/etc/hosts").exists() else "127.0.0.1 localhost\n"
        hosts = "".join(f"{host.address} {host.name}\n" for host in (controller, *nodes))
        (self.conf.parent / "hosts").write_text(known.rstrip("\n") + "\n" + hosts)
        key = self.conf.parent / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

    def _start_all(self, controller: Host, nodes: list[Host]) -> None:
        sock, own = self.pids / "munge.socket", self.conf.parent
        munged = ["munged", "--foreground", "--force", f"--key-file={own}/munge.key", f"--socket={sock}"]
        munged += [f"--pid-file={self.pids}/munged.own", f"--log-file={self.log}/munged.log"]
        self._start("munged", [*munged, f"--seed-file={self.pids}/munged.seed"])
        if not wait_for(sock.exists, 10):
            raise ClusterError("munged did not start")
        if self.is_isolated:
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "address", "add", controller.address.rpartition(".")[0] + ".1/24", "dev", self.bridge)
            run("ip", "link", "set", self.bridge, "up")
        self._start_on(controller, "slurmctld", ["slurmctld", "-D", "-c"])
        for node in nodes:
            self._start_on(node, node.name, ["slurmd", "-D", "-N", node.name])

    def _start_on(self, host: Host, name: str, command: list[str]) -> None:
        if not self.is_isolated:
            self._start(name, command)
            return
        own = self.conf.parent
        process = self._start(
            name, [*UNSHARE, "sh", str(own / "host"), host.name, host.address, str(own / "hosts"), *command]
        )
        here = os.readlink("/proc/self/ns/net")
        if not wait_for(
            lambda: process.poll() is None and os.readlink(f"/proc/{process.pid}/ns/net") != here, 10, 0.01
        ):
            raise ClusterError(f"{name}: no network of its own")
        cable = f"{self.bridge}n{host.address.rpartition('.')[2]}"
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        run("ip", "link", "set", cable, "master", self.bridge, "up")

    def _start(self, name: str, command: list[str]) -> subprocess.Popen:
        with (self.log / f"{name}.out").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=self.environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.pids / f"{name}.pid").write_text(f"{process.pid} {started_at(process.pid)}\n")
        return process

    def _is_idle(self, num_nodes: int) -> bool:
        for file in self.pids.glob("*.pid"):
            pid, started = file.read_text().split()
            if started_at(int(pid)) != started:
                raise ClusterError(f"{file.stem} ended early")
        states = self.call("sinfo", "--noheader", "--Node", "--format=%T").split()
        return states == ["idle"] * num_nodes


def main() -> int:
    """Start or stop a cluster by hand."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        sys.exit(__doc__)
    cluster = Cluster(sys.argv[2], cpus=64)
    cluster.is_isolated = can_isolate()
    try:
        if sys.argv[1] == "up":
            cluster.up()
            sys.stdout.write(f"export SLURM_CONF={cluster.conf}\n")
        else:
            cluster.down()
    except ClusterError as error:
        sys.exit(f"local_slurm: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
