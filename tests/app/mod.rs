use tests::case::Case;

mod pages;
mod shell;
mod updates;

pub(crate) fn modules() -> Vec<(&'static str, Vec<Case>)> {
    vec![("app::pages", pages::cases()), ("app::shell", shell::cases()), ("app::updates", updates::cases())]
}
