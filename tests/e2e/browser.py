"""The headless Chromium of the distribution, without background requests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


def unavailable() -> str | None:
    """Return why there is no browser, or None."""
    missing = [tool for tool in ("chromium", "chromedriver") if shutil.which(tool) is None]
    return f"needs {' and '.join(missing)}" if missing else None


@contextmanager
def chromium(profile: Path, scripts: bool = True) -> Iterator[Chrome]:
    """Start a browser with its own profile, with or without JavaScript. It keeps its console for `complaints`."""
    options = ChromeOptions()
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver: Chrome, width: int, height: int, dark: bool = False, scale: float = 1) -> None:
    """Show the page in a window or on a phone of this size, in light or dark mode."""
    size: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def complaints(driver: Chrome) -> list[str]:
    """Return the console messages since the last call."""
    return [entry["message"] for entry in driver.get_log("browser")]
