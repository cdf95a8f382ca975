"""Settings of a small Django project."""

import os

DATABASES = {
    "default": {
        "ENGINE": f"django.db.backends.{os.environ['SHOP_ENGINE']}",
        "NAME": os.environ["SHOP_NAME"],
        "USER": os.environ.get("SHOP_USER"),
        "PASSWORD": os.environ.get("SHOP_PASSWORD"),
        "HOST": os.environ.get("SHOP_HOST"),
        "PORT": os.environ.get("SHOP_PORT"),
    }
}
if os.environ["SHOP_ENGINE"] == "sqlite3":  # Django's own advice for several processes
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL",
    }
INSTALLED_APPS = ["django_shop"]
ROOT_URLCONF = "django_shop.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "not one"
ALLOWED_HOSTS = ["*"]
