"""A server of S3 over TLS, for scenarios: moto, with every signature checked.

Usage: server.py PORT BUCKET CA-FILE KEY-FILE. It listens on this machine alone, as localhost, keeps
what it is given in memory, and writes who has signed its certificate to CA-FILE, the access key's id
and secret to KEY-FILE, one line each, when it is about to listen.
"""

import json
import os
import sys
import tempfile

# Read when moto is loaded: no request may go by without a signature.
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"

import trustme
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app

ACCOUNT, REGION, USER = "123456789012", "us-east-1", "backup"


def access_key(bucket):
    """Makes the bucket, and somebody who may use it."""
    policy = {"Version": "2012-10-17"}
    policy["Statement"] = [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]
    iam = iam_backends[ACCOUNT]["aws"]
    iam.create_user(region_name=REGION, user_name=USER)
    iam.put_user_policy(USER, "all", json.dumps(policy))
    s3_backends[ACCOUNT]["aws"].create_bucket(bucket, REGION)
    return iam.create_access_key(USER)


def main(port, bucket, ca_file, key_file):
    key = access_key(bucket)
    ca = trustme.CA()
    server = Server(
        ("127.0.0.1", int(port)),
        DomainDispatcherApplication(create_backend_app),
        numthreads=8,
    )
    with tempfile.NamedTemporaryFile() as own:
        own.write(ca.issue_cert("localhost").private_key_and_cert_chain_pem.bytes())
        own.flush()
        server.ssl_adapter = BuiltinSSLAdapter(own.name, own.name)
    server.prepare()
    ca.cert_pem.write_to_path(ca_file)
    with open(key_file, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(f"{key.access_key_id}\n{key.secret_access_key}\n")
    server.serve()


main(*sys.argv[1:])
