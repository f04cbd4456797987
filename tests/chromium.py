"""A browser without a window for tests of pages: Debian's chromium, driven by selenium, cut off from the network."""

from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# WebGL without a graphics card (SwiftShader), and none of what a browser fetches by itself.
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--force-device-scale-factor=1", "--window-size=1100,760",
    # Any other name than this computer's leads nowhere, so that nothing can be fetched even by mistake.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
)  # fmt: skip
_PATIENCE_SECONDS = 60.0


class Browser:
    """One running Chromium."""

    def __init__(self, profile: Path) -> None:
        pytest.importorskip("selenium", reason="selenium is not installed")
        binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        driver = shutil.which("chromedriver")
        if binary is None or driver is None:
            pytest.skip("Chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
        from selenium.webdriver import Chrome
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service

        options = Options()
        options.binary_location = binary
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = Chrome(options=options, service=Service(driver))

    def close(self) -> None:
        self.driver.quit()

    def open(self, url: str) -> None:
        """Go to a page; what was logged before is forgotten."""
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(url)
        # On a busy machine the driver may come back before the page's scripts have run.
        self.wait("return location.href !== 'about:blank' && document.readyState === 'complete'")

    def run(self, script: str, *arguments: object) -> Any:
        """The value of a script."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, *arguments: object) -> Any:
        """The value of a script once it is true."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < end:
            if value := self.run(script, *arguments):
                return value
            time.sleep(0.05)
        pytest.fail(f"never true in {_PATIENCE_SECONDS:.0f} s: {script}; console: {self.list_errors()}")

    def list_errors(self) -> list[str]:
        """What the console calls severe since `open`."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def list_requests(self) -> list[str]:
        """Every address that the page asked for since `open`, itself first; embedded data are none."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        # Chromium's own start page is no part of what was opened.
        urls = [request["request"]["url"] for request in sent if not request["documentURL"].startswith("chrome")]
        return [url for url in urls if not url.startswith(("data:", "about:", "chrome"))]

    def capture(self, selector: str) -> np.ndarray:
        """What an element looks like, ``(rows, columns, 3)`` uint8, once everything asked for is drawn."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)));"
        )
        png = self.driver.find_element("css selector", selector).screenshot_as_png
        return np.array(Image.open(io.BytesIO(png)).convert("RGB"))
