"""An order is stored and told to Kafka, both or neither."""

import os
from dataclasses import dataclass

from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from oncebox import Service, event

from .models import Order

ORDERS = os.environ.get("ORDERS", "orders")
shop = Service("shop", store="django://default", log="kafka://" + os.environ["KAFKA"])


@event("order.placed", stream=ORDERS, key="name")
@dataclass(frozen=True)
class OrderPlaced:
    name: str
    cents: int


def order(request: HttpRequest, name: str, cents: int) -> HttpResponse:
    with transaction.atomic():
        Order.objects.create(name=name, cents=cents)
        shop.emit(connection, OrderPlaced(name, cents))
    return HttpResponse(name)


urlpatterns = [path("orders/<str:name>/<int:cents>", order)]
