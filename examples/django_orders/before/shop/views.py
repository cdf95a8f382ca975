"""An order is stored, and told to Kafka once that is committed."""

import json
import os
from functools import partial

from confluent_kafka import Producer
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from .models import Order

ORDERS = os.environ.get("ORDERS", "orders")
producer = Producer({"bootstrap.servers": os.environ["KAFKA"], "linger.ms": 0})


def tell(name: str, cents: int) -> None:
    producer.produce(ORDERS, json.dumps({"name": name, "cents": cents}), key=name)
    producer.flush()


def order(request: HttpRequest, name: str, cents: int) -> HttpResponse:
    with transaction.atomic():
        Order.objects.create(name=name, cents=cents)
        transaction.on_commit(partial(tell, name, cents))
    return HttpResponse(name)


urlpatterns = [path("orders/<str:name>/<int:cents>", order)]
