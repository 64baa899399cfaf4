//! The tray: how the machine is, and what one wants at once. Everything here is in the window, too, for desktops
//! that show no tray.

use std::sync::Mutex;

use serde::Deserialize;
use tauri::{
    AppHandle, Manager,
    image::Image,
    menu::{IsMenuItem, Menu, MenuBuilder, MenuItem, PredefinedMenuItem, SubmenuBuilder},
    tray::{TrayIcon, TrayIconBuilder},
};
use wire::{
    app::{State, Status},
    guest::Stage,
};

use crate::{
    commands::desktop::Leaving,
    link::Wish,
    platform,
    shell::{Shell, Verb},
    window,
};

/// Containers that have a line of their own; the rest is in the window.
const MAX_CONTAINERS: usize = 20;
/// The longest name that is shown whole, in characters.
const LONGEST_NAME: usize = 40;

/// What the tray shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) machine: Condition,
    pub(crate) containers: Vec<Container>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Condition {
    #[default]
    Stopped,
    Starting,
    Running,
    /// It runs, and its engine does not.
    Failed,
    Stopping,
}

impl Condition {
    pub(crate) fn of(status: &Status) -> Condition {
        match status.state {
            State::Stopped => Condition::Stopped,
            State::Starting => Condition::Starting,
            State::Stopping => Condition::Stopping,
            State::Running => match status.guest.as_ref().map(|guest| &guest.stage) {
                Some(Stage::Failed { .. }) => Condition::Failed,
                _ => Condition::Running,
            },
        }
    }

    fn words(self) -> &'static str {
        match self {
            Condition::Stopped => "Machine is stopped",
            Condition::Starting => "Machine is starting",
            Condition::Running => "Machine is running",
            Condition::Failed => "Machine runs, its engine failed",
            Condition::Stopping => "Machine is stopping",
        }
    }

    fn icon(self) -> &'static [u8] {
        match self {
            Condition::Stopped => include_bytes!("../gen/icons/tray-stopped.png"),
            Condition::Starting | Condition::Stopping => include_bytes!("../gen/icons/tray-busy.png"),
            Condition::Running => include_bytes!("../gen/icons/tray-running.png"),
            Condition::Failed => include_bytes!("../gen/icons/tray-failed.png"),
        }
    }
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Listed")]
pub(crate) struct Container {
    id: String,
    name: String,
    /// Published TCP ports of the host, each once, in order.
    ports: Vec<u16>,
}

/// What of Docker's list of containers is wanted.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    public_port: Option<u16>,
    #[serde(default)]
    r#type: String,
}

impl From<Listed> for Container {
    fn from(listed: Listed) -> Container {
        let name = listed.names.first().map_or(listed.id.as_str(), |name| name.trim_start_matches('/'));
        let published =
            listed.ports.iter().filter(|port| port.r#type == "tcp").filter_map(|port| port.public_port);
        let mut ports: Vec<u16> = published.collect();
        ports.sort_unstable();
        ports.dedup();
        Container { name: name.chars().take(LONGEST_NAME).collect(), id: listed.id, ports }
    }
}

/// The icon, and what it shows now.
pub(crate) struct Tray {
    icon: TrayIcon,
    shown: Mutex<View>,
}

/// What a line of the menu does; its id says so.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Open,
    Run(Verb),
    Page(String),
    Port(u16),
    Quit(Leaving),
}

impl Action {
    fn id(&self) -> String {
        match self {
            Action::Open => "open".to_owned(),
            Action::Run(verb) => format!("run:{}", verb.name()),
            Action::Page(path) => format!("page:{path}"),
            Action::Port(port) => format!("port:{port}"),
            Action::Quit(Leaving::Leave) => "quit:leave".to_owned(),
            Action::Quit(Leaving::Stop) => "quit:stop".to_owned(),
        }
    }

    fn of(id: &str) -> Option<Action> {
        Some(match id.split_once(':').unwrap_or((id, "")) {
            ("open", _) => Action::Open,
            ("run", "start") => Action::Run(Verb::Start),
            ("run", "stop") => Action::Run(Verb::Stop),
            ("run", "restart") => Action::Run(Verb::Restart),
            ("page", path) => Action::Page(path.to_owned()),
            ("port", port) => Action::Port(port.parse().ok()?),
            ("quit", "leave") => Action::Quit(Leaving::Leave),
            ("quit", "stop") => Action::Quit(Leaving::Stop),
            _ => return None,
        })
    }
}

impl Tray {
    pub(crate) fn make(app: &AppHandle) -> tauri::Result<Tray> {
        let view = View::default();
        let icon = TrayIconBuilder::with_id("coracle")
            .icon(Image::from_bytes(view.machine.icon())?)
            .tooltip("Coracle")
            .menu(&menu(app, &view)?)
            .show_menu_on_left_click(true)
            .on_menu_event(|app, event| match Action::of(event.id().as_ref()) {
                Some(action) => act(app, action),
                None => tracing::warn!("the tray has no {:?}", event.id()),
            })
            .build(app)?;
        Ok(Tray { icon, shown: Mutex::new(view) })
    }

    /// Shows what has changed.
    pub(crate) fn show(&self, app: &AppHandle, view: View) -> tauri::Result<()> {
        let mut shown = self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *shown == view {
            return Ok(());
        }
        if shown.machine != view.machine {
            self.icon.set_icon(Some(Image::from_bytes(view.machine.icon())?))?;
            self.icon.set_tooltip(Some(view.machine.words()))?;
        }
        self.icon.set_menu(Some(menu(app, &view)?))?;
        *shown = view;
        Ok(())
    }
}

fn menu(app: &AppHandle, view: &View) -> tauri::Result<Menu<tauri::Wry>> {
    let line = |action: Action, text: &str, enabled: bool| {
        MenuItem::with_id(app, action.id(), text, enabled, None::<&str>)
    };
    let machine = view.machine;
    let up = matches!(machine, Condition::Running | Condition::Failed);
    let state = MenuItem::with_id(app, "state", machine.words(), false, None::<&str>)?;
    let mut menu = MenuBuilder::new(app)
        .item(&line(Action::Open, "Open Coracle", true)?)
        .separator()
        .item(&state)
        .item(&line(Action::Run(Verb::Start), "Start", machine == Condition::Stopped)?)
        .item(&line(Action::Run(Verb::Stop), "Stop", up || machine == Condition::Starting)?)
        .item(&line(Action::Run(Verb::Restart), "Restart", up)?);
    if !view.containers.is_empty() {
        menu = menu.separator();
        for container in view.containers.iter().take(MAX_CONTAINERS) {
            menu = menu.item(&*container_line(app, container)?);
        }
        if let Some(more) = view.containers.len().checked_sub(MAX_CONTAINERS).filter(|more| *more > 0) {
            menu = menu.item(&line(Action::Page("/containers".into()), &format!("{more} more…"), true)?);
        }
    }
    menu.item(&PredefinedMenuItem::separator(app)?)
        .item(&line(Action::Quit(Leaving::Leave), "Quit, Leave Machine Running", up)?)
        .item(&line(Action::Quit(Leaving::Stop), if up { "Quit and Stop Machine" } else { "Quit" }, true)?)
        .build()
}

/// A container that has ports opens a list of them, one without leads to its page.
fn container_line(app: &AppHandle, container: &Container) -> tauri::Result<Box<dyn IsMenuItem<tauri::Wry>>> {
    let page = Action::Page(format!("/containers/{}", container.id)).id();
    // An & before a letter makes it a shortcut.
    let name = container.name.replace('&', "&&");
    if container.ports.is_empty() {
        return Ok(Box::new(MenuItem::with_id(app, page, name, true, None::<&str>)?));
    }
    let mut ports = SubmenuBuilder::new(app, name).text(page, "Show");
    for port in &container.ports {
        ports = ports.text(Action::Port(*port).id(), format!("localhost:{port}"));
    }
    Ok(Box::new(ports.build()?))
}

fn act(app: &AppHandle, action: Action) {
    match action {
        Action::Open => window::show(app, None),
        Action::Page(path) => window::show(app, Some(path)),
        Action::Port(port) => {
            let url = format!("http://localhost:{port}/");
            tauri::async_runtime::spawn(async move {
                if let Err(error) = platform::open_url(&url).await {
                    tell("Coracle", &error.message).await;
                }
            });
        }
        Action::Run(verb) => run(app, verb),
        Action::Quit(Leaving::Leave) => app.exit(0),
        Action::Quit(Leaving::Stop) => {
            let app = app.clone();
            tauri::async_runtime::spawn(async move {
                match app.state::<Shell>().run(Verb::Stop, drop).await {
                    Ok(()) => app.exit(0),
                    Err(error) => tell("The machine was not stopped", &error.message).await,
                }
            });
        }
    }
}

/// A window that is seen shows how it goes; without one the shell does it itself, and tells only of failure.
fn run(app: &AppHandle, verb: Verb) {
    if window::is_visible(app) {
        let wish = match verb {
            Verb::Start => Wish::Start,
            Verb::Stop => Wish::Stop,
            Verb::Restart => Wish::Restart,
        };
        return window::wish(app, wish);
    }
    let app = app.clone();
    tauri::async_runtime::spawn(async move {
        if let Err(error) = app.state::<Shell>().run(verb, drop).await {
            tell(&format!("The machine did not {}", verb.name()), &error.message).await;
        }
    });
}

async fn tell(title: &str, body: &str) {
    if let Err(error) = platform::notify(title, body).await {
        tracing::warn!("{title}: {body} (and {error})");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_does_what_its_id_says() {
        for action in [
            Action::Open,
            Action::Run(Verb::Start),
            Action::Run(Verb::Stop),
            Action::Run(Verb::Restart),
            Action::Page("/containers/a:b".into()),
            Action::Port(8080),
            Action::Quit(Leaving::Leave),
            Action::Quit(Leaving::Stop),
        ] {
            assert_eq!(Action::of(&action.id()), Some(action));
        }
        for id in ["", "run:dance", "port:70000", "quit", "state"] {
            assert_eq!(Action::of(id), None, "{id}");
        }
    }

    #[test]
    fn a_container_has_its_name_and_each_port_of_the_host_once() {
        let list = r#"[{"Id":"1","Names":["/web","/other"],"Ports":[
            {"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
            {"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
            {"PrivatePort":443,"Type":"tcp"},
            {"PrivatePort":53,"PublicPort":53,"Type":"udp"}]},
            {"Id":"2","Names":null,"Ports":[]}]"#;
        let list = list.replace("\"Names\":null,", "");
        let containers: Vec<Container> = serde_json::from_str(&list).unwrap();
        let expected = [
            Container { id: "1".into(), name: "web".into(), ports: vec![8080] },
            Container { id: "2".into(), name: "2".into(), ports: vec![] },
        ];
        assert_eq!(containers, expected);
    }

    #[test]
    fn every_condition_has_an_icon() {
        for condition in [
            Condition::Stopped,
            Condition::Starting,
            Condition::Running,
            Condition::Failed,
            Condition::Stopping,
        ] {
            let image = Image::from_bytes(condition.icon()).unwrap();
            assert!(
                image.width() >= 22 && image.rgba().chunks(4).any(|pixel| pixel[3] == 255),
                "{condition:?}"
            );
        }
    }
}
