//! A desktop's tray, as freedesktop.org's StatusNotifier has it: programs register their icons, and what is clicked goes to
//! them over D-Bus.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use zbus::blocking::{Connection, Proxy, connection};
use zbus::message::Header;
use zbus::zvariant::{OwnedValue, Value};

use crate::wait;

const NAME: &str = "org.kde.StatusNotifierWatcher";
const PATH: &str = "/StatusNotifierWatcher";
const MENU: &str = "com.canonical.dbusmenu";
/// For an icon to appear, or a menu to change.
const SOON: Duration = Duration::from_secs(20);

/// A tray that is shown.
pub struct Tray {
    bus: Connection,
    items: Arc<Mutex<Vec<Item>>>,
}

/// Where an icon's program is on the bus.
#[derive(Debug, Clone)]
struct Item {
    program: String,
    path: String,
}

/// A line of a menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    id: i32,
    pub label: String,
    pub enabled: bool,
}

struct Watcher {
    items: Arc<Mutex<Vec<Item>>>,
}

#[zbus::interface(name = "org.kde.StatusNotifierWatcher")]
impl Watcher {
    /// `service` is a name on the bus, or a path at whoever calls.
    fn register_status_notifier_item(&self, service: &str, #[zbus(header)] header: Header<'_>) {
        let sender = header.sender().map(ToString::to_string).unwrap_or_default();
        let item = if service.starts_with('/') {
            Item { program: sender, path: service.to_owned() }
        } else {
            Item { program: service.to_owned(), path: "/StatusNotifierItem".to_owned() }
        };
        self.items.lock().unwrap_or_else(PoisonError::into_inner).push(item);
    }

    fn register_status_notifier_host(&self, _service: &str) {}

    #[zbus(property)]
    fn is_status_notifier_host_registered(&self) -> bool {
        true
    }

    #[zbus(property)]
    fn protocol_version(&self) -> i32 {
        0
    }

    #[zbus(property)]
    fn registered_status_notifier_items(&self) -> Vec<String> {
        let items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.iter().map(|item| format!("{}{}", item.program, item.path)).collect()
    }
}

impl Tray {
    /// Shows one on the bus at `address`.
    pub(crate) fn start(address: &str) -> Result<Self> {
        let items = Arc::new(Mutex::new(Vec::new()));
        let bus = connection::Builder::address(address)?
            .serve_at(PATH, Watcher { items: Arc::clone(&items) })?
            .name(NAME)?
            .build()
            .context("showing a tray")?;
        Ok(Self { bus, items })
    }

    /// The only program that has an icon here.
    fn item(&self) -> Result<Item> {
        wait::eventually("there is an icon in the tray", SOON, || {
            Ok(self.items.lock().unwrap_or_else(PoisonError::into_inner).last().cloned())
        })
    }

    fn menu(&self) -> Result<Proxy<'static>> {
        let item = self.item()?;
        let icon = Proxy::new(&self.bus, item.program.clone(), item.path, "org.kde.StatusNotifierItem")?;
        let path: zbus::zvariant::OwnedObjectPath =
            icon.get_property("Menu").context("the icon has no menu")?;
        Ok(Proxy::new(&self.bus, item.program, path.into_inner(), MENU)?)
    }

    /// All lines of the menu, with those of menus in it.
    pub fn lines(&self) -> Result<Vec<Line>> {
        type Node = (i32, HashMap<String, OwnedValue>, Vec<OwnedValue>);
        let (_revision, root): (u32, Node) = self
            .menu()?
            .call("GetLayout", &(0, -1, Vec::<&str>::new()))
            .context("reading the tray's menu")?;
        let mut lines = Vec::new();
        let mut open: Vec<Node> = vec![root];
        while let Some((id, properties, children)) = open.pop() {
            let label = properties.get("label").and_then(|label| <&str>::try_from(label).ok());
            let enabled = properties.get("enabled").and_then(|enabled| bool::try_from(enabled).ok());
            if let Some(label) = label {
                lines.push(Line { id, label: label.replace('_', ""), enabled: enabled.unwrap_or(true) });
            }
            for child in children {
                open.push(Value::from(child).try_into().context("a line of the tray's menu")?);
            }
        }
        Ok(lines)
    }

    /// Waits until the menu has a line with this text, and returns it.
    pub fn line(&self, text: &str) -> Result<Line> {
        wait::eventually(&format!("the tray's menu has {text:?}"), SOON, || {
            Ok(self.lines()?.into_iter().find(|line| line.label.contains(text)))
        })
        .with_context(|| format!("the menu is {:?}", self.lines().unwrap_or_default()))
    }

    /// Clicks the line with this text, once it can be clicked.
    pub fn click(&self, text: &str) -> Result<()> {
        let line = wait::eventually(&format!("{text:?} of the tray can be clicked"), SOON, || {
            Ok(Some(self.line(text)?).filter(|line| line.enabled))
        })?;
        self.menu()?
            .call::<_, _, ()>("Event", &(line.id, "clicked", Value::from(0), 0_u32))
            .with_context(|| format!("clicking {text:?} of the tray"))
    }
}
