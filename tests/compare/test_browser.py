"""The page in a real browser, from its file, as a person uses it."""

import json
import shutil

import pytest

from helpers.made_up_runs import sweep
from runner.compare.analysis import analyse
from runner.compare.report import PAGE, write_report

webdriver = pytest.importorskip("selenium.webdriver")
Service = pytest.importorskip("selenium.webdriver.chrome.service").Service
ui = pytest.importorskip("selenium.webdriver.support.ui")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip(
        "needs chromium and chromedriver on the PATH (Debian: apt install chromium "
        "chromium-driver)",
        allow_module_level=True,
    )

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    runs = sweep(schedules=("constant", "cosine"), rates=(0.001, 0.01, 0.1))
    write_report(runs, analyse(runs, "optimizer", "validation/loss"), out)
    return (out / PAGE).as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in [
        *FLAGS.split(),
        f"--user-data-dir={tmp_path_factory.mktemp('chrome')}",
    ]:
        options.add_argument(flag)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    service = Service(DRIVER)
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium, url):
    """Opens the page as a device of some width and mode."""

    def browser(width=1280, mode="light"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1}
        size["mobile"] = width < 500
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": mode}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        chromium.get(url)
        drawn(chromium, mode)
        return chromium

    yield browser
    logged = [entry["message"] for entry in chromium.get_log("browser")]
    assert logged == []


def wait(browser, condition):
    ui.WebDriverWait(browser, 20).until(condition)


def drawn(browser, mode):
    script = "return document.documentElement.dataset.drawn"
    wait(browser, lambda b: b.execute_script(script) == mode)


def plot(browser, name="validation_loss"):
    element = browser.find_element("css selector", f"#plot-{name} canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    return element


def pixels(browser, name="validation_loss") -> str:
    """What the plot looks like, once all that was asked of it is drawn."""
    script = """
      const [name, done] = arguments;
      const canvas = document.querySelector(`#plot-${name} canvas`);
      shown.get(name).view.runAsync().then(() => done(canvas.toDataURL()));
    """
    return browser.execute_async_script(script, name)


def control(browser, label, name="validation_loss"):
    path = f"//div[@id='plot-{name}']//label[contains(., '{label}')]//input"
    return browser.find_element("xpath", path)


def test_a_series_is_toggled_in_the_legend(browser):
    page = browser()
    before = {name: pixels(page, name) for name in ("validation_loss", "final")}
    box = page.find_element("css selector", "#series input[value=sgd]")
    box.find_element("xpath", "..").click()
    assert not box.is_selected()
    for name, picture in before.items():
        assert pixels(page, name) != picture
    box.send_keys(" ")  # and from the keyboard
    assert box.is_selected()
    assert pixels(page) == before["validation_loss"]


def test_a_tooltip_tells_the_value_under_the_mouse(browser):
    page = browser()
    canvas = plot(page)
    mouse = webdriver.ActionChains(page)
    mouse.move_to_element(canvas).move_by_offset(canvas.size["width"] // 2 - 20, 0)
    mouse.perform()
    told = "#vg-tooltip-element.visible"

    def is_told(page):
        # A plot still being drawn misses a move, so the mouse keeps moving.
        webdriver.ActionChains(page).move_by_offset(-1, 0).perform()
        return page.find_elements("css selector", told)

    wait(page, is_told)
    cells = [e.text for e in page.find_elements("css selector", f"{told} td")]
    row = dict(zip(cells[::2], cells[1::2], strict=True))
    assert row["step"] == "40" and row["runs"] == "3"
    group, cell = row["optimizer, cell"].split(", ")
    mean = {"adam": 1.01, "sgd": 2.01}[group] + 0.5 * (cell == "schedule=cosine")
    assert float(row["mean validation/loss"]) == pytest.approx(mean)


def test_logarithm_and_choice_change_the_plot(browser):
    page = browser()
    plot(page)
    seen = [pixels(page)]
    control(page, "logarithmic").click()
    seen.append(pixels(page))
    menu = page.find_element("css selector", "#plot-validation_loss select")
    ui.Select(menu).select_by_visible_text("schedule=cosine")
    seen.append(pixels(page))
    assert len(set(seen)) == 3
    # A change of theme keeps what was chosen.
    page.find_element("id", "theme").click()
    drawn(page, "dark")
    assert control(page, "logarithmic").is_selected()


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_nothing_is_wider_than_the_page(browser, width):
    page = browser(width)
    root = "document.documentElement"
    assert page.execute_script(f"return {root}.scrollWidth") <= width
    for canvas in page.find_elements("css selector", ".plot canvas"):
        assert 300 < canvas.size["width"] <= width


@pytest.mark.parametrize("mode, ink", [("light", 0), ("dark", 255)])
def test_page_and_plots_follow_the_mode(browser, mode, ink):
    page = browser(mode=mode)
    script = "return getComputedStyle(document.body).{}.match(/\\d+/g).map(Number)"
    paper = page.execute_script(script.format("backgroundColor"))
    text = page.execute_script(script.format("color"))
    assert all(abs(v - (255 - ink)) < 40 for v in paper)
    assert all(abs(v - ink) < 45 for v in text)
    other = {"light": "dark", "dark": "light"}[mode]
    before = pixels(page)
    page.find_element("id", "theme").click()
    drawn(page, other)
    assert pixels(page) != before
    assert page.execute_script(script.format("backgroundColor")) != paper


def test_no_request_leaves_the_file(browser, url):
    page = browser()
    page.get_log("performance")  # the browser's own first page among it
    page.refresh()
    drawn(page, "light")
    events = [json.loads(e["message"])["message"] for e in page.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert {request["request"]["url"] for request in sent} == {url}
