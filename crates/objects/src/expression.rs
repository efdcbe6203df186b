//! CEL expressions of clients, compiled within bounds. The parser, and what walks its trees, call themselves for each
//! level: an expression of some kilobytes could end the process. So it is parsed on a stack that is large enough for
//! all that its length allows, and refused when it is deep.

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use cel::{Env, Program};

/// Longer expressions are refused.
pub const MAX_BYTES: usize = 16 << 10;
/// Levels of an expression's tree.
const MAX_DEPTH: usize = 100;
/// Deeper ones are evaluated on the large stack too: a level takes up to 50 KiB in a debug build.
const SHALLOW: usize = 20;
/// A level of the parser takes up to 40 KiB in a debug build, and it stops at 96; dropping a tree takes little, but a
/// chain of additions has a level for every two bytes.
const STACK: usize = 32 << 20;

/// Compiles an expression.
///
/// # Errors
/// A sentence for the client: too long, too deep, or what the parser says.
pub fn compile(env: &Env, source: &str) -> Result<Program, String> {
    if source.len() > MAX_BYTES {
        return Err("the expression is too long".to_owned());
    }
    on_large_stack(|| bounded(env, source))?
}

/// Evaluates a compiled expression: calls `work`, where there is stack enough for it.
///
/// # Errors
/// When no thread can be started.
pub fn run<T: Send>(program: &Program, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    match is_deeper(program.expression(), SHALLOW) {
        true => on_large_stack(work),
        false => Ok(work()),
    }
}

fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        let working = thread.spawn_scoped(scope, work);
        let working = working.map_err(|error| format!("no thread to work in: {error}"))?;
        working.join().map_err(|_| "the evaluator failed".to_owned())
    })
}

fn bounded(env: &Env, source: &str) -> Result<Program, String> {
    let program = env
        .compile(source)
        .map_err(|error| format!("compilation failed: {error}"))?;
    match is_deeper(program.expression(), MAX_DEPTH) {
        true => Err(format!("the expression is nested deeper than {MAX_DEPTH} levels")),
        false => Ok(program),
    }
}

fn is_deeper(expression: &IdedExpr, levels: usize) -> bool {
    let mut open = vec![(expression, 1)];
    while let Some((expression, depth)) = open.pop() {
        if depth > levels {
            return true;
        }
        open.extend(parts(expression).into_iter().map(|part| (part, depth + 1)));
    }
    false
}

/// The expressions that an expression is made of.
pub(crate) fn parts(expression: &IdedExpr) -> Vec<&IdedExpr> {
    let mut parts: Vec<&IdedExpr> = Vec::new();
    match &expression.expr {
        Expr::Call(call) => {
            parts.extend(call.target.as_deref());
            parts.extend(&call.args);
        }
        Expr::Comprehension(body) => parts.extend([
            &body.iter_range,
            &body.accu_init,
            &body.loop_cond,
            &body.loop_step,
            &body.result,
        ]),
        Expr::List(list) => parts.extend(&list.elements),
        Expr::Map(map) => entries(&map.entries, &mut parts),
        Expr::Struct(body) => entries(&body.entries, &mut parts),
        Expr::Select(select) => parts.push(&select.operand),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
    parts
}

fn entries<'a>(entries: &'a [IdedEntryExpr], parts: &mut Vec<&'a IdedExpr>) {
    for entry in entries {
        match &entry.expr {
            EntryExpr::StructField(field) => parts.push(&field.value),
            EntryExpr::MapEntry(entry) => parts.extend([&entry.key, &entry.value]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_expressions_are_refused_and_end_nothing() {
        let env = Env::stdlib();
        let said = |source: &str| compile(&env, source).err().unwrap_or_default();
        assert_eq!(said("self.a + 1 > 2 && size(self.b) < 3"), "");
        assert!(said(&format!("1{}", "+1".repeat(MAX_BYTES / 2 - 1))).contains("nested deeper"));
        assert!(said(&format!("a{}", ".a".repeat(MAX_BYTES / 2 - 1))).contains("nested deeper"));
        for open in [
            "(",
            "[",
            "!",
            "-",
            "a(",
            "a.matches('x', ",
            "{1:",
            "a ? ",
            "self.name.matches('^[a-z]+$",
        ] {
            let deep = open.repeat(MAX_BYTES / open.len());
            assert!(said(&deep).contains("compilation failed"), "{open}");
        }
        assert!(said(&" ".repeat(MAX_BYTES + 1)).contains("too long"));
        let level = format!("{}1{}", "(".repeat(60), ")".repeat(60));
        assert_eq!(said(&level), "");
    }

    #[test]
    fn expressions_that_are_just_not_too_deep_are_evaluated() {
        let env = std::sync::Arc::new(Env::stdlib());
        let program = compile(&env, &format!("1{}", "-1".repeat(MAX_DEPTH - 2))).expect("it is taken");
        let context = cel::Context::with_env(env);
        let done = run(&program, || program.execute(&context)).expect("a thread");
        assert_eq!(done, Ok(cel::Value::Int(3 - MAX_DEPTH as i64)));
    }
}
