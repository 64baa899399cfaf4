//! What a case is, and how it is run: on a thread of its own, with a deadline, and with its outcome told plainly.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};

use crate::engine::{self, Kind};
use crate::target::Target;
use crate::wait;

/// How a case ends. An error made of [`Skip`] means that it could not be run here.
pub type Outcome = anyhow::Result<()>;

/// Why something cannot be tested on this machine.
#[derive(Debug)]
pub struct Skip(String);

impl Skip {
    pub fn because(reason: impl Display) -> Self {
        Self(reason.to_string())
    }
}

impl Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// How long a case may take, unless it says otherwise; three times as long in a machine, whose CPU may be emulated.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long a case may go on after its deadline, at which every wait of the harness ends.
const GRACE: Duration = Duration::from_secs(20);

/// One case; `cases!` makes them from functions.
#[derive(Clone)]
pub struct Case {
    name: &'static str,
    body: Body,
    kinds: &'static [Kind],
    timeout: Duration,
    alone: bool,
    images: bool,
    options: &'static [&'static str],
}

#[derive(Clone)]
enum Body {
    /// Needs an engine.
    OnEngine(fn(&Target) -> Outcome),
    /// Needs the finished product and starts what it wants itself.
    OnProduct(fn() -> Outcome),
}

impl Case {
    /// A case for every kind of engine, which it shares with other cases.
    #[must_use]
    pub fn new(name: &'static str, body: fn(&Target) -> Outcome) -> Self {
        Self {
            name,
            body: Body::OnEngine(body),
            kinds: &Kind::ALL,
            timeout: TIMEOUT,
            alone: false,
            images: true,
            options: &[],
        }
    }

    /// A case for the finished product, which starts what it wants.
    #[must_use]
    pub fn product(name: &'static str, body: fn() -> Outcome) -> Self {
        Self {
            name,
            body: Body::OnProduct(body),
            kinds: &[Kind::Machine],
            timeout: TIMEOUT,
            alone: true,
            images: false,
            options: &[],
        }
    }

    /// Only for these kinds of engines.
    #[must_use]
    pub fn on(mut self, kinds: &'static [Kind]) -> Self {
        self.kinds = kinds;
        self
    }

    /// On an engine that no other case uses, because it counts, prunes, or kills.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// On an engine of its own that is started with these options, which mean the same to all kinds.
    #[must_use]
    pub fn with(mut self, options: &'static [&'static str]) -> Self {
        self.alone = true;
        self.options = options;
        self
    }

    /// Without the image `busybox:latest`, which the others find.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.images = false;
        self
    }

    /// With this much time, in seconds.
    #[must_use]
    pub fn seconds(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    fn run(&self, kind: Kind, name: &str) -> Outcome {
        match self.body {
            Body::OnProduct(body) => body(),
            Body::OnEngine(body) => {
                let engine = if self.alone {
                    Arc::new(engine::Engine::start_with(kind, self.options)?)
                } else {
                    engine::shared(kind)?
                };
                if self.images {
                    engine.load_busybox()?;
                }
                let target = Target::new(engine, name)?;
                let outcome = body(&target);
                target.clean_up();
                outcome
            }
        }
    }
}

/// Makes `pub fn cases() -> Vec<Case>` of a list of functions, each with the restrictions that it needs.
#[macro_export]
macro_rules! cases {
    ($($name:ident $(.$restriction:ident($($argument:expr),*))*),* $(,)?) => {
        pub(crate) fn cases() -> Vec<$crate::case::Case> {
            vec![$($crate::case::Case::new(stringify!($name), $name)$(.$restriction($($argument),*))*),*]
        }
    };
}

/// [`cases!`] for the finished product.
#[macro_export]
macro_rules! product_cases {
    ($($name:ident $(.$restriction:ident($($argument:expr),*))*),* $(,)?) => {
        pub(crate) fn cases() -> Vec<$crate::case::Case> {
            vec![$($crate::case::Case::product(stringify!($name), $name)$(.$restriction($($argument),*))*),*]
        }
    };
}

/// Fails with both values unless they are equal.
#[macro_export]
macro_rules! ensure_eq {
    ($left:expr, $right:expr $(,)?) => {
        $crate::case::equal(&$left, &$right, &stringify!($left))?
    };
    ($left:expr, $right:expr, $($context:tt)+) => {
        $crate::case::equal(&$left, &$right, &format_args!($($context)+))?
    };
}

/// The work of [`ensure_eq!`].
pub fn equal<A: PartialEq<B> + fmt::Debug + ?Sized, B: fmt::Debug + ?Sized>(
    left: &A,
    right: &B,
    context: &dyn Display,
) -> Outcome {
    anyhow::ensure!(left == right, "{context}: expected {right:?}, got {left:?}");
    Ok(())
}

/// What failed, with its reason: told again at the very end, which is all that many a log keeps.
static FAILED: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
/// Cases that could not be run, by reason.
static SKIPPED: Mutex<BTreeMap<String, Vec<String>>> = Mutex::new(BTreeMap::new());

/// The cases of one module as trials, one for each kind of engine that is wanted and fits. A kind in `required` must
/// be there: what would else be skipped fails.
pub fn trials(
    module: &str,
    cases: &[Case],
    wanted: &[Kind],
    required: &'static [Kind],
) -> impl Iterator<Item = Trial> {
    let mut trials = Vec::new();
    for case in cases {
        for kind in wanted.iter().copied().filter(|kind| case.kinds.contains(kind)) {
            let name = format!("{kind}::{module}::{}", case.name);
            let case = case.clone();
            let trial_name = name.clone();
            let trial = move || {
                run(case, kind, &name, required.contains(&kind)).inspect_err(|failed| {
                    let reason = failed.message().unwrap_or_default().to_owned();
                    FAILED.lock().unwrap_or_else(PoisonError::into_inner).insert(name, reason);
                })
            };
            trials.push(Trial::ignorable_test(trial_name, trial));
        }
    }
    trials.into_iter()
}

fn run(case: Case, kind: Kind, name: &str, required: bool) -> Result<Completion, Failed> {
    let timeout = case.timeout * if kind == Kind::Machine { 3 } else { 1 };
    let (done, outcome) = mpsc::channel();
    let own_name = name.to_owned();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        wait::set_deadline(Some(Instant::now() + timeout));
        // The receiver is gone if this comes after its grace; then the case has failed already.
        let _ = done.send(case.run(kind, &own_name));
    });
    let thread = thread.map_err(|error| format!("starting a thread: {error}"))?;
    match outcome.recv_timeout(timeout + GRACE) {
        Ok(Ok(())) => Ok(Completion::Completed),
        Ok(Err(error)) => match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) if !required => {
                let mut skipped = SKIPPED.lock().unwrap_or_else(PoisonError::into_inner);
                skipped.entry(reason.clone()).or_default().push(name.to_owned());
                Ok(Completion::ignored_with(format!("SKIP: {reason}")))
            }
            _ => Err(told(&error).into()),
        },
        Err(RecvTimeoutError::Timeout) => Err(format!("still running after {timeout:?}").into()),
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().err();
            let text = panic.as_deref().and_then(|panic| {
                panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            });
            Err(format!("the case panicked: {}", text.unwrap_or_default()).into())
        }
    }
}

/// An error with its causes, one a line, and no backtrace: what matters is what the engine said.
pub(crate) fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join("\n  because: ")
}

/// Every case that failed, with its reason.
#[must_use]
pub fn failed() -> Vec<(String, String)> {
    let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    failed.iter().map(|(name, reason)| (name.clone(), reason.clone())).collect()
}

/// Every reason for which something was skipped, with the number of cases.
#[must_use]
pub fn skipped() -> Vec<(String, usize)> {
    let skipped = SKIPPED.lock().unwrap_or_else(PoisonError::into_inner);
    skipped.iter().map(|(reason, names)| (reason.clone(), names.len())).collect()
}
