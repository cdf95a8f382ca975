"""The shop's two pages."""

from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from .models import Account, Order
from .services import OrderPlaced, shop


def order(request: HttpRequest, customer: str, cents: int) -> HttpResponse:
    with transaction.atomic():
        placed = Order.objects.create(customer=customer, cents=cents)
        shop.emit(connection, OrderPlaced(customer, placed.pk, cents))
        if cents == 0:
            transaction.set_rollback(True)
            return HttpResponse(status=402)
    return JsonResponse(placed.pk, safe=False)


def accounts(request: HttpRequest) -> HttpResponse:
    found = Account.objects.all()
    return JsonResponse({a.customer: (a.owed, a.orders.strip(), a.currency) for a in found})


urlpatterns = [path("orders/<str:customer>/<int:cents>", order), path("accounts", accounts)]
