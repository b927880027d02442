"""A real browser without a window, which tells everything that it was asked to load and everything it complained of."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from . import needs
from .process import children, die_with_parent, wait_exit

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

T = TypeVar("T")

SECONDS: Final = 60.0
"""How long anything may take: a machine that tests in parallel is slow."""

_FLAGS: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--force-device-scale-factor=1", "--lang=en",
)  # fmt: skip


class Browser:
    """Headless Chromium. Close it, whatever happens. `profile` is a directory that is its own."""

    def __init__(self, profile: Path) -> None:
        needs.tools("chromium", "chromedriver")
        try:
            from selenium import webdriver
        except ImportError:
            needs.missing("selenium is not installed")
        options = webdriver.ChromeOptions()
        options.binary_location = needs.program("chromium")
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self._before = children()
        service = webdriver.ChromeService(
            executable_path=needs.program("chromedriver"),
            env={**os.environ, "HOME": str(profile), "XDG_CONFIG_HOME": str(profile)},
            popen_kw={"preexec_fn": die_with_parent},
        )
        self.driver: WebDriver = webdriver.Chrome(options=options, service=service)
        self.driver.set_script_timeout(SECONDS)
        self.driver.set_page_load_timeout(SECONDS)

    def close(self) -> None:
        """Ends the browser and its driver, and the helpers that they leave, which become children of the tests."""
        self.driver.quit()
        for pid in children() - self._before:
            try:
                if not Path(f"/proc/{pid}/comm").read_text().startswith("chrom"):
                    continue  # another's
                wait_exit(pid)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                wait_exit(pid)
            except (ChildProcessError, FileNotFoundError):
                pass

    def open(self, address: str | Path) -> None:
        """Shows a page; what was logged before is forgotten."""
        self.requests()
        self.complaints()
        self.driver.get(address.as_uri() if isinstance(address, Path) else address)

    def script(self, body: str, *arguments: Any) -> Any:
        """What the body of a function in the page returns."""
        return self.driver.execute_script(body, *arguments)

    def wait(self, condition: Callable[[], T]) -> T:
        """Waits until the condition is true; what it is then."""
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, SECONDS, 0.05).until(lambda _: condition())

    def requests(self) -> list[str]:
        """Every address that was asked for since the last call, whether or not it was answered."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """Errors and warnings of the page since the last call, those of its Content-Security-Policy among them."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """Gives the page a size in CSS pixels, as on a device with so many pixels to each."""
        phone = width < 600
        self._command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    def prefer(self, **features: str) -> None:
        """What the user has chosen in his system: `prefers_color_scheme="dark"` and the like."""
        media = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self._command("Emulation.setEmulatedMedia", features=media)

    def press(self, *keys: str) -> None:
        """Presses keys, wherever the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def _command(self, name: str, **arguments: Any) -> None:
        self.driver.execute_cdp_cmd(name, arguments)
