"""A service that speaks the protocol of S3, on loopback: moto's server, which checks signatures."""

import os
import socket
import subprocess
import sys
import time

import boto3
import botocore.config

START_TIMEOUT_S = 30
BUCKET = "hearth-media"
REGION = "us-east-1"
POLICY = """{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}"""
# What is asked before there is anybody who could sign: a user, their policy, their key, the bucket.
UNSIGNED_REQUESTS = 4


class Service:
    """The service with one bucket, and a key that may do everything in it."""

    def __init__(self, port):
        self.port, self.url = port, "http://127.0.0.1:%d" % port
        environment = dict(os.environ, INITIAL_NO_AUTH_ACTION_COUNT=str(UNSIGNED_REQUESTS))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._wait()
        self.key_id, self.secret = "nobody", "nothing"
        iam = self._client("iam")
        iam.create_user(UserName="hearth")
        iam.put_user_policy(UserName="hearth", PolicyName="all", PolicyDocument=POLICY)
        key = iam.create_access_key(UserName="hearth")["AccessKey"]
        self._client("s3").create_bucket(Bucket=BUCKET)
        self.key_id, self.secret = key["AccessKeyId"], key["SecretAccessKey"]
        self._s3 = self._client("s3")

    def _client(self, name):
        quick = botocore.config.Config(retries={"max_attempts": 1}, connect_timeout=5, read_timeout=30)
        return boto3.client(name, endpoint_url=self.url, region_name=REGION, config=quick,
                            aws_access_key_id=self.key_id, aws_secret_access_key=self.secret)

    def _wait(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def names(self, prefix=""):
        """The names of all objects below a prefix."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def pending(self):
        """Uploads in parts that were begun and not ended."""
        return self._s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])

    def put(self, name, body):
        self._s3.put_object(Bucket=BUCKET, Key=name, Body=body)

    def stop(self):
        """Everything that it has is gone with it."""
        self.process.terminate()
        self.process.wait()
