"""Take memory away from a running guest: its kernel keeps that much in huge pages that no program uses.

A balloon (virtio-balloon) does the same, but not for guests that are restored: when a balloon grows, QEMU 7.2 punches
holes into the file with the guest's memory (ram_block_discard_range in softmmu/physmem.c of its sources), and that file
is the template's, from which other guests run.
"""

from __future__ import annotations

from pytest_xhyve.guest.agent import RunAsRoot
from pytest_xhyve.model.errors import ConfigurationError, NotSupported, XhyveError
from pytest_xhyve.model.values import format_size, parse_size

# The kernel's Documentation/admin-guide/mm/hugetlbpage.rst: a number that is written to nr_hugepages is what the kernel
# tries to have; reading it shows what it has. Pages that a program has taken stay with the program. A try reclaims only
# some memory, so that another one may get more. Prints the size of a page, and the pages that are free in the end.
_TAKE = """
read -r wanted
show() { while read -r key value _; do [ "$key" != "$1:" ] || echo "$value"; done < /proc/meminfo; }
size=$(show Hugepagesize)
[ -n "$size" ] || { echo none; exit; }
used=$(($(show HugePages_Total) - $(show HugePages_Free) + $(show HugePages_Rsvd)))
pages=$(((wanted + size * 1024 - 1) / (size * 1024)))
got=-1
while :; do
    echo $((used + pages)) > /proc/sys/vm/nr_hugepages
    last=$got
    got=$(($(show HugePages_Total) - used))
    [ $got -lt $pages ] && [ $got -gt $last ] || break
done
[ $got -ge $pages ] || echo $used > /proc/sys/vm/nr_hugepages
echo "$size $got $pages"
"""


def parse_amount(amount: int | str | None, memory: int) -> int:
    """The bytes to take away; 0 for None.

    Args:
        amount: a size.
        memory: the guest's memory, in bytes.

    Raises:
        ConfigurationError: *amount* is not a size, or is as much as the guest has.
    """
    taken = 0 if amount is None else parse_size(amount)
    if taken >= memory:
        raise ConfigurationError(f"a guest with {format_size(memory)} of memory cannot lose {format_size(taken)}")
    return taken


def take(name: str, run_as_root: RunAsRoot, amount: int) -> None:
    """Let the guest's programs and kernel have *amount* bytes less than at first.

    Args:
        name: the guest's name.
        run_as_root: runs a shell line in the guest.
        amount: bytes; 0 gives all back.

    Raises:
        NotSupported: the guest's kernel has no huge pages.
        XhyveError: the guest cannot spare so much; it has all its memory then.
    """
    words = run_as_root(_TAKE, f"{amount}\n".encode()).split()
    if words == ["none"]:
        raise NotSupported(f"the kernel of guest {name} has no huge pages (CONFIG_HUGETLBFS), which keep the memory")
    try:
        size, got, wanted = map(int, words)
    except ValueError as error:
        raise XhyveError(f"guest {name} does not show how much memory it has spared") from error
    if got < wanted:
        raise XhyveError(
            f"guest {name} cannot spare {format_size(amount)} of its memory: its kernel and programs use all but "
            f"{format_size(max(0, got) * size << 10)}"
        )
