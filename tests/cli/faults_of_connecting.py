"""Faults between a command line and a login: settings, the way to the server, the key, the login itself."""

from __future__ import annotations

from .fault_place import DROP_PRIVILEGES, Fault, Running

__all__ = ["KEYS", "LOGIN", "SETTINGS", "WAY"]

ME = "--config={tester}"
MODELS = ("models", ME)

SEE_MODELS = "(see: wsclient models --help)"
SEE_GENERATE = "(see: wsclient generate --help)"
CHECK_URL = "[connection_failed]. Check the server's URL, and that a gateway runs there (wsclient serve)."
CHECK_CLIENT = "[invalid_auth]. Check the client's id and key on the server: wsclient list-clients --detailed."
MAKE_KEYS = "Make a key pair with: wsclient generate-keys."


def interrupt_login(running: Running) -> None:
    running.wait_for(lambda: any(peer.received for peer in running.place.unanswered.peers))
    running.interrupt()


SETTINGS = (
    Fault(
        name="nothing says how to connect",
        command=("models",),
        code=2,
        line="how to connect? --server-url, --client-id, --key missing; give --config=keys/NAME_config.json, "
        f"which register-client writes {SEE_MODELS}",
    ),
    Fault(
        name="configuration file missing",
        command=("models", "--config=nowhere.json"),
        code=2,
        line=f"nowhere.json cannot be read: No such file or directory; register-client writes such a file {SEE_MODELS}",
    ),
    Fault(
        name="configuration file is not JSON",
        command=("models", "--config={broken}"),
        code=2,
        line=f"{{broken}} is not JSON: ...; write it again with: wsclient register-client {SEE_MODELS}",
    ),
    Fault(
        name="configuration file is a template",
        command=("models", "--config={template}"),
        code=2,
        line=f"{{template}} has no clientId; register the client with: wsclient register-client {SEE_MODELS}",
    ),
    Fault(
        name="bad URL",
        command=(*MODELS, "--server-url=htp://host"),
        code=2,
        line=f"--server-url must start with ws:// or wss:// and name a host (got 'htp://host') {SEE_MODELS}",
    ),
    Fault(
        name="unencrypted to another machine",
        command=(*MODELS, "--server-url=ws://gateway.invalid"),
        code=2,
        line="server_url 'ws://gateway.invalid/' is not encrypted; use wss://, or --allow-insecure in a trusted "
        f"network {SEE_MODELS}",
    ),
    Fault(
        name="wrong variable",
        command=MODELS,
        env={"WSCLIENT_PING_INTERVAL": "soon"},
        code=2,
        line=f"WSCLIENT_PING_INTERVAL must be a number (got 'soon') {SEE_MODELS}",
    ),
    Fault(
        name="unknown command",
        command=("modles",),
        code=2,
        line="No such command 'modles'... (see: wsclient --help)",
    ),
    Fault(
        name="unknown option",
        command=("models", "--modle=x"),
        code=2,
        line=f"No such option...--modle... {SEE_MODELS}",
    ),
    Fault(
        name="option of the wrong kind",
        command=("generate", "hello", ME, "--seed=x"),
        code=2,
        line=f"Invalid value for '--seed': 'x' is not a valid integer {SEE_GENERATE}",
    ),
    Fault(
        name="option out of range",
        command=("generate", "hello", ME, "--temperature=-1"),
        code=2,
        line=f"Invalid value for '--temperature': -1.0 is not in the range x>=0 {SEE_GENERATE}",
    ),
)

WAY = (
    Fault(
        name="no server",
        command=(*MODELS, "--server-url={nobody}"),
        line=f"cannot reach {{nobody}}/: Connection refused {CHECK_URL}",
    ),
    Fault(
        name="host not found",
        command=(*MODELS, "--server-url=wss://gateway.invalid"),
        # The name is reserved for not being found (RFC 6761); where nobody can be asked, one second will do.
        env={"RES_OPTIONS": "timeout:1 attempts:1"},
        line=f"cannot resolve host 'gateway.invalid' of wss://gateway.invalid/ {CHECK_URL}",
    ),
    Fault(
        name="certificate for another name",
        command=(*MODELS, "--server-url={elsewhere}"),
        env={"SSL_CERT_FILE": "{elsewhere_pem}"},
        line="the TLS certificate of 127.0.0.1 is not trusted: IP address mismatch, certificate is not valid for "
        "'127.0.0.1' [connection_failed]. Use a host name that the certificate is for in the server's URL, or have "
        "one made for this name.",
    ),
    Fault(
        name="certificate expired",
        command=(*MODELS, "--server-url={expired}"),
        env={"SSL_CERT_FILE": "{expired_pem}"},
        line="the TLS certificate of 127.0.0.1 is not trusted: certificate has expired [connection_failed]. Renew it "
        "on the server, and check this machine's clock.",
    ),
    Fault(
        name="certificate self-signed",
        command=(*MODELS, "--server-url={self_signed}"),
        line="the TLS certificate of 127.0.0.1 is not trusted: self...signed certificate [connection_failed]. Use a "
        "certificate that this machine trusts, or name its issuer's PEM file in SSL_CERT_FILE.",
    ),
    Fault(
        name="no TLS where it is asked for",
        command=(*MODELS, "--server-url=wss://127.0.0.1:{port}"),
        line="no TLS connection to wss://127.0.0.1:{port}/: ... [connection_failed]. Check that this port speaks "
        "TLS, as wss:// wants; ws:// is for ports without it.",
    ),
    Fault(
        name="no WebSocket server",
        command=(*MODELS, "--server-url={ssh}"),
        line=f"no WebSocket at {{ssh}}/: ... {CHECK_URL}",
    ),
    Fault(
        name="HTTP 401 at the upgrade",
        command=(*MODELS, "--server-url={unauthorized}"),
        line="{unauthorized}/ answered HTTP 401 instead of 101 [connection_failed]. Something in front of the gateway "
        "wants a login of its own, or forbids this one; ask who runs it.",
    ),
    Fault(
        name="HTTP 404 at the upgrade",
        command=(*MODELS, "--server-url={missing}"),
        line="{missing}/ answered HTTP 404 instead of 101 [connection_failed]. Something else than a gateway answers "
        "there; check the host, port and path of the server's URL.",
    ),
    Fault(
        name="HTTP 503 at the upgrade",
        command=(*MODELS, "--server-url={unavailable}"),
        line="{unavailable}/ answered HTTP 503 instead of 101 [connection_failed]. The gateway is stopping, or not "
        "running behind its proxy; try again, or see its log.",
    ),
    Fault(
        name="silent server",
        command=(*MODELS, "--server-url={silent}"),
        env={"WSCLIENT_CONNECT_TIMEOUT": "0.5"},
        line="...{silent}/...within 0.5 s [connection_timeout]. Check the server's URL and the network between.",
    ),
    Fault(
        name="server without a challenge",
        command=(*MODELS, "--server-url={unchallenging}"),
        env={"WSCLIENT_AUTH_TIMEOUT": "0.5"},
        line="{unchallenging}/: no challenge within 0.5 s [auth_challenge_timeout]. Check that the URL leads to a "
        "WebSocket System gateway.",
    ),
    Fault(
        name="server without a verdict",
        command=(*MODELS, "--server-url={unjudged}"),
        env={"WSCLIENT_AUTH_TIMEOUT": "2"},
        line="{unjudged}/: no verdict on the login within 2 s [auth_timeout]. A new connection gets a fresh "
        "challenge; try again.",
    ),
    Fault(
        name="server that breaks the protocol",
        command=(*MODELS, "--server-url={garbled}"),
        line="{garbled}/: the server broke RFC 6455: reserved bits are set [protocol_error]. Check that the server's "
        "URL leads to a WebSocket System gateway of a matching version.",
    ),
)

KEYS = (
    Fault(
        name="key missing",
        command=(*MODELS, "--key=nowhere.pem"),
        line=f"the private key nowhere.pem does not exist [invalid_key]. Check the path. {MAKE_KEYS}",
    ),
    Fault(
        name="key unreadable",
        command=(*MODELS, "--key={unreadable_key}"),
        shell=DROP_PRIVILEGES,
        line="the private key {unreadable_key} cannot be opened: Permission denied [invalid_key]. Check who may read "
        "it.",
    ),
    Fault(
        name="key open to others",
        command=(*MODELS, "--key={others_key}"),
        line="the private key {others_key} can be written by others (mode 0666) [invalid_key]. Whoever can write it "
        "may have replaced it; if it is still yours: chmod 600 {others_key}.",
    ),
    Fault(
        name="key is a folder",
        command=(*MODELS, "--key={folder}"),
        line="the private key {folder} is a directory [invalid_key]. Give the private half of the pair, NAME_key.pem.",
    ),
    Fault(
        name="key is garbage",
        command=(*MODELS, "--key={garbage_key}"),
        line="the private key {garbage_key} is not in PEM format [invalid_key]. It must begin with -----BEGIN ...",
    ),
    Fault(
        name="key is the public half",
        command=(*MODELS, "--key={public_half}"),
        line="the private key {public_half} is a public key [invalid_key]. Give the private half of the pair, "
        "NAME_key.pem.",
    ),
    Fault(
        name="key too small",
        command=(*MODELS, "--key={small_key}"),
        line="the private key {small_key} cannot be used: the RSA key has 1024 bits; at least 2048 are needed "
        f"[invalid_key]. {MAKE_KEYS}",
    ),
    Fault(
        name="key of another type",
        command=(*MODELS, "--key={ed_key}"),
        line="the private key {ed_key} cannot be used: Ed25519 keys are not supported, only RSA and EC [invalid_key]. "
        f"{MAKE_KEYS}",
    ),
    Fault(
        name="passphrase missing",
        command=(*MODELS, "--key={locked_key}"),
        line="the private key {locked_key} is encrypted [invalid_key]. Give its passphrase in WSCLIENT_PASSPHRASE.",
    ),
    Fault(
        name="passphrase wrong",
        command=(*MODELS, "--key={locked_key}"),
        env={"WSCLIENT_PASSPHRASE": "open"},
        line="the private key {locked_key} cannot be decrypted with this passphrase [invalid_key]. Check the "
        "passphrase in WSCLIENT_PASSPHRASE; the key must be RSA, or EC on P-256 or P-384.",
    ),
)

LOGIN = (
    Fault(
        name="unknown client",
        command=(*MODELS, "--client-id=nobody"),
        line=f"{{url}}/ does not let client 'nobody' in: Invalid signature {CHECK_CLIENT}",
    ),
    Fault(
        name="revoked client",
        command=(*MODELS, "--client-id={revoked}"),
        line=f"{{url}}/ does not let client '{{revoked}}' in: Invalid signature {CHECK_CLIENT}",
    ),
    Fault(
        name="wrong key",
        command=(*MODELS, "--key={wrong_key}"),
        line=f"{{url}}/ does not let client '{{tester_id}}' in: Invalid signature {CHECK_CLIENT}",
    ),
    Fault(
        name="too many failed logins",
        command=(*MODELS, "--client-id=blocked"),
        line="Too many authentication attempts. Please try again in ... seconds [rate_limited].",
    ),
    Fault(
        name="interrupted at the login",
        command=(*MODELS, "--server-url={unanswered}"),
        meanwhile=interrupt_login,
        code=130,
        line="interrupted by Ctrl-C",
    ),
)
