//! Real Chromium, driven from the tests.

use std::path::PathBuf;

use platform::eventually;
use platform::testing::server;
use tempfile::TempDir;
use thirtyfour::prelude::*;

/// A headless Chromium with a profile of its own.
pub struct Browser {
    pub driver: WebDriver,
    _profile: TempDir,
}

impl Browser {
    /// `None`, said loudly, without a driver.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn open() -> Option<Self> {
        let server = server("CHAT_SYNC_TEST_CHROMEDRIVER")?;
        let profile = tempfile::tempdir().expect("the browser");
        // The driver's client is one of reqwest's.
        platform::tls::provide();
        let mut capabilities = DesiredCapabilities::chrome();
        for argument in [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--lang=en-GB",
            &format!("--user-data-dir={}", profile.path().display()),
        ] {
            capabilities.add_arg(argument).expect("the browser");
        }
        let driver = WebDriver::new(server, capabilities).await.expect("the browser");
        Some(Self { driver, _profile: profile })
    }

    pub async fn show(&self, address: &str, path: &str) {
        self.driver.goto(format!("http://{address}/{path}")).await.expect("the browser");
    }

    pub async fn run(&self, script: &str) -> serde_json::Value {
        self.driver.execute(script, Vec::new()).await.expect("the browser").json().clone()
    }

    /// Shows a token where the page asks for one.
    ///
    /// # Panics
    /// If it does not ask.
    pub async fn signs_in(&self, token: &str) {
        eventually!(self.run("return document.getElementById('sign-in')?.open").await == true, "it asks for a token");
        let script = format!(
            "document.getElementById('shown-token').value = {};
             document.querySelector('#sign-in form').requestSubmit()",
            serde_json::json!(token)
        );
        self.run(&script).await;
    }

    /// The text of a message's item, as it is shown.
    pub async fn text(&self, message: &str) -> Option<String> {
        let text =
            self.run(&format!("return document.querySelector('#messages [data-id=\"{message}\"]')?.textContent")).await;
        text.as_str().map(str::to_owned)
    }

    pub async fn shows(&self, message: &str, words: &str) -> bool {
        self.text(message).await.is_some_and(|text| text.contains(words))
    }

    pub async fn state(&self) -> String {
        self.run("return document.getElementById('chip').dataset.state").await.as_str().unwrap_or_default().to_owned()
    }

    /// What the page says of itself, for a test that waits in vain.
    pub async fn says(&self) -> String {
        let script = "const text = (id) => document.getElementById(id)?.textContent;
            return [location.href, text('chip'), text('region'), text('title'), text('notice'), text('messages')]";
        self.run(script).await.to_string()
    }

    /// Pictures of the page as it is: wide and narrow, light and dark.
    pub async fn pictures(&self, name: &str) {
        let Some(folder) = std::env::var_os("CHAT_SYNC_TEST_SCREENSHOTS").map(PathBuf::from) else { return };
        let tools = self.driver.cdp();
        for (size, width, height) in [("desktop", 1280, 800), ("phone", 360, 740)] {
            for scheme in ["light", "dark"] {
                let metrics =
                    serde_json::json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
                tools.send_raw("Emulation.setDeviceMetricsOverride", metrics).await.expect("the browser");
                let media = serde_json::json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
                tools.send_raw("Emulation.setEmulatedMedia", media).await.expect("the browser");
                self.run("return document.body.offsetHeight").await;
                let fits = self.run("return document.documentElement.scrollWidth <= innerWidth").await;
                assert_eq!(fits, true, "{name} does not fit {width} px");
                let file = folder.join(format!("{name}-{size}-{scheme}.png"));
                self.driver.screenshot(&file).await.expect("the browser");
            }
        }
        tools.send_raw("Emulation.clearDeviceMetricsOverride", serde_json::json!({})).await.expect("the browser");
    }

    pub async fn close(self) {
        self.driver.quit().await.expect("the browser");
    }
}
