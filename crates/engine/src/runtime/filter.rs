//! System call filters: compiled once for each profile, then loaded by every process that has it.
//!
//! Compiling Docker's profile with libseccomp takes about as long as starting a container does
//! otherwise. So the engine stores the profile below the exec root by its hash, and the first helper
//! that needs it stores the compiled program beside.

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall, ScmpVersion,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use rustix::fs::MemfdFlags;
use sha2::{Digest, Sha256};

use super::bundle::read;
use crate::{
    error::{Context, Error, Result},
    store::{self, Durability},
};

/// Changes whenever the same profile compiles to something else.
const FORMAT: u32 = 1;
/// The most instructions the kernel takes, `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;
/// No architecture has system calls beyond this number, but those of x32, which start at [`X32`].
const MAX_NUMBER: i32 = 1024;
const X32: u32 = 0x4000_0000;

/// A program as `seccomp(2)` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    flags: u32,
    /// `struct sock_filter`, in host byte order.
    instructions: Vec<Instruction>,
}

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    operand: u32,
}

/// Of several containers that start at once, one writes their profile.
static STORING: Mutex<()> = Mutex::new(());

/// Stores a profile; returns the name under which [`load`] finds it.
pub(crate) fn store(directory: &Path, profile: &LinuxSeccomp) -> Result<String> {
    let json = serde_json::to_vec(profile).context(|| "encode a seccomp profile".to_owned())?;
    let library = ScmpVersion::current().context(|| "find the version of libseccomp".to_owned())?;
    let mut hash = Sha256::new();
    hash.update(format!("{FORMAT} {library}\n"));
    hash.update(&json);
    let name: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let path = profile_path(directory, &name);
    let _alone = STORING.lock().unwrap_or_else(PoisonError::into_inner);
    if !path.exists() {
        store::replace(&path, &json, Durability::Renamed).context(|| format!("write {}", path.display()))?;
    }
    Ok(name)
}

/// The program for a stored profile, compiled now if it was not before.
pub(crate) fn load(directory: &Path, name: &str) -> Result<Filter> {
    let path = directory.join(format!("{name}.bpf"));
    if let Some(filter) = fs::read(&path).ok().as_deref().and_then(Filter::decode) {
        return Ok(filter);
    }
    let profile: LinuxSeccomp = read(&profile_path(directory, name))?;
    let filter = compile(&profile)?;
    // Several helpers may come here at once: each writes a file of its own.
    let own = directory.join(format!("{name}.{}", std::process::id()));
    fs::write(&own, filter.encode())
        .and_then(|()| fs::rename(&own, &path))
        .context(|| format!("write {}", path.display()))?;
    Ok(filter)
}

fn profile_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.json"))
}

impl Filter {
    /// Binds this process, and what it becomes, to the filter.
    ///
    /// # Errors
    /// EACCES without CAP_SYS_ADMIN, unless no new privileges can be gained.
    pub(crate) fn apply(&self) -> io::Result<()> {
        let program: Vec<libc::sock_filter> = self
            .instructions
            .iter()
            .map(|instruction| libc::sock_filter {
                code: instruction.code,
                jt: instruction.jump_true,
                jf: instruction.jump_false,
                k: instruction.operand,
            })
            .collect();
        let length = u16::try_from(program.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the filter is too long"))?;
        let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
        // SAFETY: the program outlives the call, and the kernel only reads it.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, self.flags, &raw const program)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.flags.to_ne_bytes().to_vec();
        for instruction in &self.instructions {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jump_true, instruction.jump_false]);
            bytes.extend(instruction.operand.to_ne_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (flags, rest) = bytes.split_first_chunk()?;
        let instructions = decode_instructions(rest)?;
        Some(Self { flags: u32::from_ne_bytes(*flags), instructions })
    }
}

fn decode_instructions(bytes: &[u8]) -> Option<Vec<Instruction>> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || chunks.is_empty() || chunks.len() > MAX_INSTRUCTIONS {
        return None;
    }
    Some(
        chunks
            .iter()
            .map(|[a, b, jump_true, jump_false, k @ ..]| Instruction {
                code: u16::from_ne_bytes([*a, *b]),
                jump_true: *jump_true,
                jump_false: *jump_false,
                operand: u32::from_ne_bytes(*k),
            })
            .collect(),
    )
}

/// Compiles a profile for the architectures it names and this machine's own.
///
/// # Errors
/// Actions that need a supervisor, and whatever libseccomp refuses.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    let failed = || "compile a seccomp profile".to_owned();
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).context(failed)?;
    let architectures: Vec<ScmpArch> =
        profile.architectures().iter().flatten().map(|arch| architecture(*arch)).collect();
    for arch in &architectures {
        context.add_arch(*arch).context(failed)?;
    }
    // The process decides by itself whether it can gain new privileges.
    context.set_ctl_nnp(false).context(failed)?;
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        if action == default {
            continue;
        }
        for name in rule.names() {
            // Other architectures' system calls and those newer than the library are no error in a
            // profile. See `unknown_to_library` for the latter.
            if let Ok(syscall) = ScmpSyscall::from_name(name) {
                add_rule(&mut context, action, syscall, rule).context(failed)?;
            }
        }
    }
    let compiled = export(&context).context(failed)?;
    let compiled = decode_instructions(&compiled)
        .ok_or_else(|| Error::invalid("the seccomp profile compiles to no usable program"))?;
    let mut instructions = match default {
        ScmpAction::Errno(errno) if errno != libc::ENOSYS => unknown_to_library(&architectures),
        _ => Vec::new(),
    };
    instructions.extend(compiled);
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(Error::invalid("the seccomp profile compiles to too long a program"));
    }
    Ok(Filter { flags: flags(profile), instructions })
}

/// The compiled program's bytes.
fn export(context: &ScmpFilterContext) -> Result<Vec<u8>> {
    let failed = || "export the program".to_owned();
    let memory = rustix::fs::memfd_create("filter", MemfdFlags::CLOEXEC).context(failed)?;
    context.export_bpf(&memory).context(failed)?;
    let mut file = File::from(memory);
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).context(failed)?;
    Ok(bytes)
}

fn add_rule(
    context: &mut ScmpFilterContext,
    action: ScmpAction,
    syscall: ScmpSyscall,
    rule: &LinuxSyscall,
) -> Result<(), libseccomp::error::SeccompError> {
    let comparisons: Vec<ScmpArgCompare> = rule
        .args()
        .iter()
        .flatten()
        .map(|argument| {
            let (operator, value) = match argument.op() {
                LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, argument.value()),
                LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, argument.value()),
                LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, argument.value()),
                LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, argument.value()),
                LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, argument.value()),
                LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, argument.value()),
                // `value` is the mask here, and `valueTwo` what is compared with.
                LinuxSeccompOperator::ScmpCmpMaskedEq => {
                    (ScmpCompareOp::MaskedEqual(argument.value()), argument.value_two().unwrap_or(0))
                }
            };
            ScmpArgCompare::new(u32::try_from(argument.index()).unwrap_or(u32::MAX), operator, value)
        })
        .collect();
    let indices: std::collections::BTreeSet<usize> =
        rule.args().iter().flatten().map(|argument| argument.index()).collect();
    if comparisons.is_empty() {
        context.add_rule(action, syscall)?;
    } else if indices.len() == comparisons.len() {
        context.add_rule_conditional(action, syscall, &comparisons)?;
    } else {
        // libseccomp compares an argument once in a rule: as in runc, any of them is enough then.
        for comparison in comparisons {
            context.add_rule_conditional(action, syscall, &[comparison])?;
        }
    }
    Ok(())
}

/// A prologue that answers ENOSYS for system calls that are newer than the library: programs take that
/// for an old kernel and do without, while any other error stops them. As runc does.
fn unknown_to_library(architectures: &[ScmpArch]) -> Vec<Instruction> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const JUMP_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
    const JUMP_NOT_LESS: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // Offsets in `struct seccomp_data`.
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    let mut program = Vec::new();
    for (arch, audit) in
        [(ScmpArch::X8664, 0xc000_003e), (ScmpArch::X86, 0x4000_0003), (ScmpArch::Aarch64, 0xc000_00b7)]
    {
        let native = arch == ScmpArch::native();
        if !native && !architectures.contains(&arch) {
            continue;
        }
        let Some(newest) = (0..MAX_NUMBER)
            .rev()
            .find(|number| ScmpSyscall::from_raw_syscall(*number).get_name_by_arch(arch).is_ok())
        else {
            continue;
        };
        let newest = u32::try_from(newest).unwrap_or(u32::MAX);
        let instruction =
            |code, jump_true, jump_false, operand| Instruction { code, jump_true, jump_false, operand };
        program.extend([
            instruction(LOAD, 0, 0, ARCHITECTURE),
            instruction(JUMP_EQUAL, 0, 4, audit),
            instruction(LOAD, 0, 0, NUMBER),
            instruction(JUMP_NOT_LESS, 2, 0, X32),
            instruction(JUMP_GREATER, 0, 1, newest),
            instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()),
        ]);
    }
    program
}

fn flags(profile: &LinuxSeccomp) -> u32 {
    let Some(flags) = profile.flags() else {
        // As runc: containers do not pay for a mitigation that the kernel itself no longer asks for.
        return u32::try_from(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW).unwrap_or(0);
    };
    flags
        .iter()
        .map(|flag| match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // Has a meaning only together with a supervisor.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        })
        .fold(0, |all, flag| all | u32::try_from(flag).unwrap_or(0))
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction> {
    let errno = errno.map_or(libc::EPERM, |errno| i32::try_from(errno).unwrap_or(libc::EPERM));
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno),
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(u16::try_from(errno).unwrap_or_default()),
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Error::not_implemented("seccomp profiles with SCMP_ACT_NOTIFY are not implemented"));
        }
    })
}

fn architecture(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::spec;

    /// `AUDIT_ARCH_*`.
    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn errno(number: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | number.unsigned_abs()
    }

    /// What the kernel would do: runs the instructions that filters are made of.
    fn verdict(filter: &Filter, architecture: u32, number: u32, first: u64) -> u32 {
        let mut data = [0_u8; 64];
        data[0..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&architecture.to_ne_bytes());
        data[16..24].copy_from_slice(&first.to_ne_bytes());
        let (mut at, mut accumulator) = (0_usize, 0_u32);
        loop {
            let Instruction { code, jump_true, jump_false, operand } = filter.instructions[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jump_true } else { jump_false });
            match u32::from(code) {
                // ld [k]
                0x20 => {
                    let offset = usize::try_from(operand).unwrap();
                    accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
                }
                // ret k
                0x06 => return operand,
                // ja, jeq, jgt, jge, jset
                0x05 => at += usize::try_from(operand).unwrap(),
                0x15 => at += jump(accumulator == operand),
                0x25 => at += jump(accumulator > operand),
                0x35 => at += jump(accumulator >= operand),
                0x45 => at += jump(accumulator & operand != 0),
                // and k
                0x54 => accumulator &= operand,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn dockers_profile_does_what_it_says() {
        let filter = compile(&spec::seccomp::default_profile(&[]).unwrap()).unwrap();
        let on_64 =
            |number: libc::c_long, first| verdict(&filter, X86_64, u32::try_from(number).unwrap(), first);
        assert_eq!(on_64(libc::SYS_openat, 0), ALLOW);
        assert_eq!(on_64(libc::SYS_mount, 0), errno(libc::EPERM));
        assert_eq!(on_64(libc::SYS_keyctl, 0), errno(libc::EPERM));
        assert_eq!(on_64(libc::SYS_clone3, 0), errno(libc::ENOSYS));
        // Threads and processes, but no namespaces.
        assert_eq!(on_64(libc::SYS_clone, 0x3d_0f00), ALLOW);
        assert_eq!(on_64(libc::SYS_clone, 0x1000_0000), errno(libc::EPERM));
        assert_eq!(on_64(libc::SYS_personality, 0x20000), ALLOW);
        assert_eq!(on_64(libc::SYS_personality, 0x4000_0000), errno(libc::EPERM));
        assert_eq!(on_64(libc::SYS_socket, 2), ALLOW);
        assert_eq!(on_64(libc::SYS_socket, 40), errno(libc::EPERM));
        // A system call of tomorrow, and programs of 32 bits.
        assert_eq!(on_64(1000, 0), errno(libc::ENOSYS));
        assert_eq!(verdict(&filter, I386, 5, 0), ALLOW);
        assert_eq!(verdict(&filter, I386, 21, 0), errno(libc::EPERM));
        assert_eq!(verdict(&filter, I386, 1000, 0), errno(libc::ENOSYS));
        // An architecture that the profile does not name.
        assert_ne!(verdict(&filter, 0x1234, 1, 0), ALLOW);

        let admin = compile(&spec::seccomp::default_profile(&["CAP_SYS_ADMIN"]).unwrap()).unwrap();
        for call in [libc::SYS_mount, libc::SYS_clone3, libc::SYS_unshare] {
            assert_eq!(verdict(&admin, X86_64, u32::try_from(call).unwrap(), 0), ALLOW, "{call}");
        }
    }

    #[test]
    fn a_stored_profile_is_compiled_once() {
        let directory = tempfile::tempdir().unwrap();
        let profile: LinuxSeccomp = serde_json::from_value(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["chmod", "nosuch"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}],
        }))
        .unwrap();
        let name = store(directory.path(), &profile).unwrap();
        assert_eq!(name, store(directory.path(), &profile).unwrap());
        let first = load(directory.path(), &name).unwrap();
        assert_eq!(first.flags, 2);
        fs::remove_file(profile_path(directory.path(), &name)).unwrap();
        assert_eq!(load(directory.path(), &name).unwrap(), first);
        // A damaged program is not loaded.
        fs::write(directory.path().join(format!("{name}.bpf")), [0; 7]).unwrap();
        assert!(load(directory.path(), &name).is_err());
    }

    #[test]
    fn a_profile_that_needs_a_supervisor_is_refused() {
        let profile: LinuxSeccomp = serde_json::from_value(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_NOTIFY"}],
        }))
        .unwrap();
        assert_eq!(compile(&profile).unwrap_err().kind(), crate::error::Kind::NotImplemented);
    }
}
