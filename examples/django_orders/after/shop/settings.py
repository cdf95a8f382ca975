"""Settings of a small Django project."""

import os
from urllib.parse import unquote, urlsplit

place = urlsplit(os.environ["DATABASE"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": place.path[1:],
        "USER": place.username,
        "PASSWORD": unquote(place.password or ""),
        "HOST": place.hostname,
        "PORT": place.port,
    }
}
INSTALLED_APPS = ["shop"]
ROOT_URLCONF = "shop.views"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "not one"
ALLOWED_HOSTS = ["*"]
