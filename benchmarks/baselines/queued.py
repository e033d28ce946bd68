"""The bare minimum of an event that is enqueued: reads one parameter and sends one message."""

import os
from typing import Any

import boto3
import urllib3

ssm = boto3.client("ssm")
sqs = boto3.client("sqs")
http = urllib3.PoolManager()
cache: dict[str, str] = {}


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Send the body of the request as it is."""
    if not cache:
        name = f"{os.environ['PARAMETER_PREFIX']}/webhook-token"
        cache["token"] = ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    answer = sqs.send_message(
        QueueUrl=os.environ["QUEUE_URL"],
        MessageBody=event["body"],
        MessageGroupId="group",
        MessageDeduplicationId=context.aws_request_id,
    )
    return {"statusCode": 200, "body": answer["MessageId"]}
