"""The bare minimum of an event that is posted at once: reads one parameter, updates one item, posts one body."""

import os
from typing import Any

import boto3
import urllib3

ssm = boto3.client("ssm")
dynamodb = boto3.client("dynamodb")
http = urllib3.PoolManager()
cache: dict[str, str] = {}


def lambda_handler(event: dict[str, Any], _: object) -> dict[str, Any]:
    """Post the body of the request as it is."""
    if not cache:
        name = f"{os.environ['PARAMETER_PREFIX']}/routing-keys/default"
        cache["routing_key"] = ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    dynamodb.update_item(
        TableName=os.environ["FLOW_TABLE"],
        Key={"service": {"S": "baseline"}},
        UpdateExpression="ADD #calls :one",
        ExpressionAttributeNames={"#calls": "calls"},
        ExpressionAttributeValues={":one": {"N": "1"}},
    )
    response = http.request(
        "POST",
        f"{os.environ['PAGERDUTY_URL']}/v2/enqueue",
        body=event["body"].encode(),
        headers={"content-type": "application/json"},
    )
    return {"statusCode": response.status, "body": ""}
