"""What the log tells of: each kind of event with its name for programs, what it means and its cure.

The journal's catalogue (``journalctl -x``, ``systemd/edged.catalog``) and ``docs/messages.md`` are
made from it.
"""

from __future__ import annotations

import enum
import textwrap
from typing import NamedTuple

__all__ = ["Notice", "about", "catalogue", "reference"]


class Kind(NamedTuple):
    """A kind of event.

    Attributes:
        message_id: ``MESSAGE_ID`` of the journal: 32 hexadecimal digits, made once, never changed.
        subject: in a line; ``@FIELD@`` stands for a field of the message.
        meaning: what happened, and what edged does about it.
        cure: what a person can do about it; empty where there is nothing to be done.
    """

    message_id: str
    subject: str
    meaning: str
    cure: str


class Notice(enum.Enum):
    """The kinds there are."""

    STARTED = Kind(
        "4101438394b6426f9482804d5e57eac1",
        "edged runs",
        (
            "edged listens for calls and watches its drop folder. What serves is said in a "
            "message of its own."
        ),
        "",
    )
    STOPPING = Kind(
        "5d7985cbd4624a9cafd2b783ce46b18a",
        "edged is stopping",
        (
            "Calls that are being answered may finish, for slot.drain_seconds at most; new ones "
            "are told to try again."
        ),
        "",
    )
    FAILED = Kind(
        "608f5d494944492d847afa0670141085",
        "edged cannot run",
        (
            "The message says what could not be used: an address, a folder, a key of the "
            "configuration, the state."
        ),
        (
            "`edgectl config check` reads the configuration, `edgectl doctor` looks for the usual "
            "troubles. With exit status 78 systemd does not start edged again by itself: "
            "`systemctl start edged` does, once the cause is mended."
        ),
    )
    RELOADED = Kind(
        "86c5030ec9304ca5b9d26f4089249e96",
        "The configuration was read again",
        "The keys that the message names are in force from now on.",
        "",
    )
    NOT_RELOADED = Kind(
        "f06bbd6b31f64b92a01532bc80c81d98",
        "The configuration could not be read again",
        "What was in force before stays in force; nothing was interrupted.",
        (
            "Mend the file that the message names, `edgectl config check` it, and `systemctl "
            "reload edged`."
        ),
    )
    RESTART_NEEDED = Kind(
        "1f415a0f17c54694a0f51ef605fc824f",
        "Keys changed that need a restart",
        "Everything else of the new configuration is in force.",
        (
            "`systemctl restart edged` when it suits: calls are refused with UNAVAILABLE for some "
            "seconds, and the model is loaded again."
        ),
    )
    OPEN_LISTENER = Kind(
        "68aae5438c314045b1ea8886618fb930",
        "Calls can come from the network, and nothing says by whom",
        (
            "An address of the configuration can be reached from other machines, and lets in "
            "whoever connects, or sends what should be secret without encryption. The message says "
            "which, and what is missing."
        ),
        (
            "Give the listener a certificate and a key, and either tokens = true or a client_ca: "
            "docs/listening.md has the commands. Where the network itself is guarded, "
            "insecure = true says so."
        ),
    )
    REFUSED_CALLS = Kind(
        "6f506a21c6e6411caa8931a118e05753",
        "Calls are refused, for want of a token or of a name that may call",
        (
            "The first is told of at once, the others are counted and told of every ten seconds. "
            "What they brought instead is not logged."
        ),
        (
            "`edgectl token list` shows which tokens there are; `edgectl token add` makes one. "
            "Names of certificates that may call are in the listener's key clients."
        ),
    )
    CALL_FAILED = Kind(
        "e024b25d16c846bba80c24ffe42ff4db",
        "Call @REQUEST_ID@ ended with @CODE@",
        (
            "A client was told so, with the reason. The line says who called what, and where the "
            "time went; clients get the request id back with the answer."
        ),
        (
            "INVALID_ARGUMENT and NOT_FOUND: the client asks for what there is not, and its answer "
            "says what there is. UNAVAILABLE: models change, or the device is away; clients try "
            "again. RESOURCE_EXHAUSTED: fewer calls at once, or serving.max_concurrent_calls and "
            "serving.max_message_bytes. DEADLINE_EXCEEDED: the client waits too short, or too many "
            "call: `edgectl top`. INTERNAL: the messages before this one."
        ),
    )
    CALL_BROKE = Kind(
        "d4111798b73949e3840f8e945949171c",
        "Call @REQUEST_ID@ met a fault of edged itself",
        (
            "The client was told INTERNAL, and nothing of the fault; other calls are not touched. "
            "The message has a traceback."
        ),
        "It is a fault in edged's code: report it with the traceback and edged's version.",
    )
    DEVICE_FOUND = Kind(
        "8a5df2fa9a554a36886f0fbfe552663c",
        "Device @DEVICE@ was found",
        "The model that was committed is loaded onto it next, if there is one.",
        "",
    )
    DEVICE_LOST = Kind(
        "7ef6353649a94079a6f11c1b96a0a04b",
        "Device @DEVICE@ is gone",
        (
            "Calls are refused with UNAVAILABLE. When the device is back, the model is loaded "
            "again by itself."
        ),
        (
            "Without a card: `systemctl status edged-emulator`. With one: `dmesg` for errors of "
            "PCIe, and `edgectl doctor`."
        ),
    )
    NO_IOMMU = Kind(
        "c2aa44b45ef94b1d96bb18e33a6edb40",
        "Card @DEVICE@ is used without an IOMMU",
        (
            "device.iommu is optional, and nothing keeps this card to the memory that is shared "
            "with it. A wrong address, a hostile gateware or whoever flashed it can read and "
            "write all memory of the machine."
        ),
        (
            "Switch VT-d or AMD-Vi on in the firmware, and boot with intel_iommu=on; the IOMMU is "
            "used as soon as it is there. docs/cards.md says what this means."
        ),
    )
    DEVICE_LEVEL = Kind(
        "bf5b9c230a1c4cd4af518f9be982c42c",
        "A reading of device @DEVICE@ crossed a threshold",
        (
            "The message says which, where it is now and what that means: OK, WARN, THROTTLE "
            "(calls are slowed down) or STOP (the device is not used until it is better)."
        ),
        (
            "`edgectl device` shows all readings; the thresholds are in the configuration's table "
            "device. For heat: fans, airflow, the room. For the link: the slot, the riser."
        ),
    )
    DEVICE_SLOWED = Kind(
        "65168ade67b946a080087073ba327659",
        "Calls are slowed down, or no longer",
        (
            "The device is near to what it bears. One call is let in every "
            "device.throttle_interval_seconds, so that it need not be stopped."
        ),
        "`edgectl device` says which reading it is.",
    )
    DEVICE_RESET = Kind(
        "cf0e3ee9be314d4bb842cc6a53fdfb52",
        "Device @DEVICE@ was reset",
        (
            "A run hung or the device reported a fault. edged resets it only as far as needed, "
            "and the message says which step that was and whether it helped."
        ),
        (
            "Once is no cause for alarm. If it comes again: `edgectl device` counts the steps, and "
            "a model whose runs hang should not serve (`edgectl rollback`)."
        ),
    )
    LINK_ERROR = Kind(
        "5c64ad83cad5486e87be5a15945b70ec",
        "The link of device @DEVICE@ reports an error",
        (
            "PCI Express noted an error of the kind that the message names; each kind is told of "
            "once. Correctable ones were made good by the link itself."
        ),
        (
            "Many of them, or one that is not correctable: seat the card anew, try another slot "
            "or riser, and see `dmesg`. `edgectl device` counts them."
        ),
    )
    FLASHED = Kind(
        "44142d897ba04120890e272eb3398795",
        "The firmware of the card was changed",
        (
            "A role runs from now on, and the model is loaded again by itself, compiled anew if"
            " the role has another array. A golden image waits until there is no sound role."
        ),
        "",
    )
    SERVES = Kind(
        "1f14ada0bf154d00a1d2927e07248f49",
        "Model @MODEL@ serves",
        "Digest @DIGEST@. Calls that came while it took its place were held, not refused.",
        "",
    )
    REMARK = Kind(
        "8312030a75104f759b853a2a9583f969",
        "The compiler remarks on model @MODEL@",
        (
            "Digest @DIGEST@. It serves, and this is what to know of it: whether its ranges were "
            "measured on made-up inputs, how much of its work stays on the host and why, and which "
            "of its outputs come in coarse steps. `edgectl models` and the status file in the drop "
            "folder say the same."
        ),
        (
            "Pack it with 16 or more typical inputs: `edgectl pack --calibration`. `edgectl "
            "compile FILE --report` tells of every operator where it runs and why; "
            "docs/operators.md says what the device can run."
        ),
    )
    NOT_LOADED = Kind(
        "8237ee730ef94a4dbd07fedb9d61414f",
        "Model @MODEL@ could not be loaded",
        (
            "It is tried again, up to slot.attempts times; then it is set aside and the last good "
            "one is loaded."
        ),
        "The message says why. `edgectl rollback` loads the one before it now.",
    )
    ROLLED_BACK = Kind(
        "61d9473e0e2b449f991011795a374f6d",
        "Model @MODEL@ serves again",
        (
            "The one that was to take its place failed before it was committed; the message says "
            "why. Calls were held, not refused."
        ),
        "Mend the new model and drop it again under a new version.",
    )
    SET_ASIDE = Kind(
        "8004ac13df1d4ec0abb52d59c0097b7f",
        "Model @MODEL@ is set aside",
        (
            "Digest @DIGEST@. It failed too often, and is not started by itself any more. The "
            "last good model serves, if there is one."
        ),
        (
            "`edgectl models` says why it is set aside. `edgectl activate` tries it once more; "
            "`edgectl remove` forgets it."
        ),
    )
    CONTAINER_LOST = Kind(
        "b171105a37da4937b271aca5b3c2bea0",
        "The container of model @MODEL@ is gone",
        (
            "The process that held the model ended. Another one is started with the same model; "
            "calls wait for it, and those that were inside fail with UNAVAILABLE."
        ),
        (
            "If it comes again: the lines of the container before this one say what it last did; "
            "container.memory_bytes may be too small for the model."
        ),
    )
    TAKEN = Kind(
        "b0a3a6027c18449b9c282c2e016a6107",
        "@FILE@ is taken from the drop folder",
        "Its status file beside it says how far it is.",
        "",
    )
    REJECTED = Kind(
        "f469fde4587c4879b35ba48edec660f6",
        "@FILE@ was rejected",
        (
            "It was moved to the folder rejected/ in the drop folder, with its status file, which "
            "gives the reason as well. What served before serves on."
        ),
        (
            "The message says what is wrong with it. `edgectl verify` and `edgectl compile` say "
            "the same on the machine where the model is made."
        ),
    )
    POSTPONED = Kind(
        "bd98c68ab8fa4cdfb3e206c653450c9d",
        "@FILE@ is tried again later",
        "The cause is not in the file: the device or the disk, for instance.",
        "The message says what was in the way. If it stays: `edgectl doctor`.",
    )
    DAMAGED = Kind(
        "2706b83442f94523839c26f96842ff13",
        "Something in the store cannot be read",
        (
            "It was moved to the folder quarantine of the state folder, with the reason beside "
            "it; nothing was deleted."
        ),
        (
            "Drop the bundles again that `edgectl models` no longer lists. Look at the disk: "
            "`dmesg`, `smartctl`."
        ),
    )


def about(notice: Notice, **fields: object) -> dict[str, str]:
    """What ``extra`` of a log call takes, so that the journal has it as fields.

    Args:
        fields: ``model``, ``digest``, ``device``, ``file`` or ``request_id``, which it is about.
    """
    return {
        "MESSAGE_ID": notice.value.message_id,
        **{name.upper(): str(value) for name, value in fields.items()},
    }


def catalogue() -> str:
    """``systemd/edged.catalog``, as journalctl(1) reads it."""
    text = "# Made from edged/notices.py by `make docs`.\n"
    for notice in Notice:
        kind = notice.value
        text += f"\n-- {kind.message_id}\nSubject: {kind.subject}\nDefined-By: edged\n"
        text += "Documentation: man:edged(8)\n"
        for paragraph in filter(None, (kind.meaning, kind.cure)):
            text += f"\n{textwrap.fill(paragraph, 96, break_on_hyphens=False)}\n"
    return text


def reference() -> str:
    """``docs/messages.md``."""
    text = _HEAD
    for notice in Notice:
        kind = notice.value
        text += f"\n## {_generic(kind.subject)}\n\n`MESSAGE_ID={kind.message_id}`\n"
        text += f"\n{_generic(kind.meaning)}\n"
        text += f"\nWhat to do: {kind.cure}\n" if kind.cure else ""
    return text


_HEAD = """\
# Messages

<!-- Made from edged/notices.py by `make docs`. -->

What edged logs into the journal when something happens, and what to do about it.
`journalctl -x -u edged` shows the same below each message; `journalctl MESSAGE_ID=…` finds all of a
kind. Messages have the fields `MODEL` (name and version), `DIGEST`, `DEVICE`, `FILE` and
`REQUEST_ID` where they are about one: `journalctl -u edged MODEL="mobilenet-v2 1.0.0"`. No message
holds what a client sent, but for the request id that it chose, if it is one.
"""


def _generic(text: str) -> str:
    for field in ("MODEL", "DIGEST", "DEVICE", "FILE", "REQUEST_ID", "CODE"):
        text = text.replace(f"@{field}@", "…" if field != "FILE" else "A file")
    return text
