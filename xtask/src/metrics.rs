//! Prints the size and shape of the hand-written, non-test code beside the aims of the house style.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Result;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::source::{self, Source};

/// Crates whose public items must all be documented.
const DOCUMENTED: &[&str] = &["api", "control", "provider", "store", "placement"];
/// How many equal lines in a row count as a duplicate.
const WINDOW: usize = 8;

#[derive(Default)]
struct Counts {
    file_lines: Vec<usize>,
    function_lines: Vec<usize>,
    nesting: Vec<usize>,
    parameters: Vec<usize>,
    code_lines: usize,
    tests: usize,
    unwraps: usize,
    public_items: usize,
    undocumented: usize,
    modules: usize,
    with_doc: usize,
    windows: usize,
    repeated: usize,
}

struct Row {
    name: &'static str,
    value: String,
    aim: &'static str,
}

/// Measures and prints; always true.
pub fn run(root: &Path, json: bool) -> Result<bool> {
    let sources = source::load(root)?;
    let counts = count(&sources);
    let (locked, doubled) = packages(root)?;
    let rows = rows(&counts, locked, doubled);
    if json {
        let values: BTreeMap<&str, &str> = rows.iter().map(|row| (row.name, row.value.as_str())).collect();
        println!("{}", serde_json::to_string_pretty(&values)?);
        return Ok(true);
    }
    println!(
        "{:<44} {:>18}   aim",
        "indicator (hand-written, non-test code)", "value"
    );
    for row in rows {
        println!("{:<44} {:>18}   {}", row.name, row.value, row.aim);
    }
    Ok(true)
}

fn rows(counts: &Counts, locked: usize, doubled: usize) -> Vec<Row> {
    let row = |name, value, aim| Row { name, value, aim };
    let over = |list: &[usize], limit: usize| list.iter().filter(|length| **length > limit).count();
    let share = |part: usize, whole: usize| format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64);
    let per_thousand = |part: usize| format!("{:.1}", 1000.0 * part as f64 / counts.code_lines.max(1) as f64);
    let files = &counts.file_lines;
    let functions = &counts.function_lines;
    vec![
        row("code lines", counts.code_lines.to_string(), ""),
        row(
            "file length median / p90",
            quantiles(files, &[50, 90]),
            "120-220 / <=500",
        ),
        row("files over 1000 lines", over(files, 1000).to_string(), "0"),
        row(
            "function length median / p90 / p99",
            quantiles(functions, &[50, 90, 99]),
            "<=10 / <=35 / <=90",
        ),
        row(
            "functions over 70 lines",
            share(over(functions, 70), functions.len()),
            "<=1.5 %",
        ),
        row("nesting p99", quantiles(&counts.nesting, &[99]), "<=3"),
        row(
            "functions with over 7 parameters",
            over(&counts.parameters, 7).to_string(),
            "0",
        ),
        row("tests per 1,000 code lines", per_thousand(counts.tests), ">=12"),
        row(
            "undocumented public items",
            share(counts.undocumented, counts.public_items),
            "0 %",
        ),
        row(
            "modules with a //! line",
            share(counts.with_doc, counts.modules),
            "100 %",
        ),
        row(
            "unwrap + expect per 1,000 lines",
            per_thousand(counts.unwraps),
            "<=1.0",
        ),
        row(
            "duplicated 8-line windows",
            share(counts.repeated, counts.windows),
            "<=1 %",
        ),
        row("packages locked", locked.to_string(), "<=450"),
        row("packages with more than one version", doubled.to_string(), "<=12"),
    ]
}

fn quantiles(list: &[usize], wanted: &[usize]) -> String {
    let mut sorted = list.to_vec();
    sorted.sort_unstable();
    let at = |percent: &usize| {
        sorted
            .get((sorted.len().saturating_sub(1)) * percent / 100)
            .copied()
            .unwrap_or(0)
    };
    wanted
        .iter()
        .map(|percent| at(percent).to_string())
        .collect::<Vec<_>>()
        .join(" / ")
}

fn count(sources: &[Source]) -> Counts {
    let mut counts = Counts::default();
    let mut seen: HashMap<Vec<&str>, usize> = HashMap::new();
    for source in sources {
        let mut walk = Walk {
            counts: &mut counts,
            depth: 0,
            deepest: 0,
            documented: false,
            in_test: source.is_test(),
        };
        walk.documented = DOCUMENTED.contains(&source.krate());
        walk.visit_file(&source.tree);
        if source.is_test() {
            continue;
        }
        let own = own_lines(source);
        counts.file_lines.push(own.len());
        counts.modules += 1;
        counts.with_doc += usize::from(source.text.starts_with("//!"));
        let code: Vec<&str> = own
            .iter()
            .map(|line| line.trim())
            .filter(|line| is_code(line))
            .collect();
        counts.code_lines += code.len();
        for window in code.windows(WINDOW) {
            counts.windows += 1;
            *seen.entry(window.to_vec()).or_default() += 1;
        }
    }
    counts.repeated = seen.values().filter(|times| **times > 1).sum();
    counts
}

/// The file's lines without the test module at its end.
fn own_lines(source: &Source) -> Vec<&str> {
    let end = source
        .text
        .find("#[cfg(test)]\nmod tests {")
        .unwrap_or(source.text.len());
    source.text[..end].lines().collect()
}

fn is_code(line: &str) -> bool {
    line.len() > 1 && !line.starts_with("//") && !line.starts_with("use ") && !line.starts_with("})")
}

fn packages(root: &Path) -> Result<(usize, usize)> {
    let lock = std::fs::read_to_string(root.join("Cargo.lock"))?;
    let mut versions: HashMap<&str, usize> = HashMap::new();
    for name in lock.lines().filter_map(|line| line.strip_prefix("name = ")) {
        *versions.entry(name).or_default() += 1;
    }
    Ok((
        versions.values().sum(),
        versions.values().filter(|count| **count > 1).count(),
    ))
}

struct Walk<'a> {
    counts: &'a mut Counts,
    depth: usize,
    deepest: usize,
    documented: bool,
    in_test: bool,
}

impl Walk<'_> {
    fn function(&mut self, signature: &syn::Signature, attrs: &[syn::Attribute], body: &syn::Block) {
        let is_test = attrs
            .iter()
            .any(|attr| attr.path().segments.last().is_some_and(|s| s.ident == "test"));
        self.counts.tests += usize::from(is_test);
        if self.in_test || is_test {
            return;
        }
        let (depth, deepest) = (std::mem::take(&mut self.depth), std::mem::take(&mut self.deepest));
        visit::visit_block(self, body);
        let lines = body
            .span()
            .end()
            .line
            .saturating_sub(signature.span().start().line)
            + 1;
        self.counts.function_lines.push(lines);
        self.counts.nesting.push(self.deepest);
        self.counts.parameters.push(signature.inputs.len());
        (self.depth, self.deepest) = (depth, deepest);
    }

    fn nested(&mut self, inner: impl FnOnce(&mut Self)) {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        inner(self);
        self.depth -= 1;
    }

    fn public_item(&mut self, vis: &syn::Visibility, attrs: &[syn::Attribute]) {
        if self.documented && !self.in_test && matches!(vis, syn::Visibility::Public(_)) {
            self.counts.public_items += 1;
            let documented = attrs.iter().any(|attr| attr.path().is_ident("doc"));
            self.counts.undocumented += usize::from(!documented);
        }
    }
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        let before = self.in_test;
        self.in_test |= source::is_test_only(&node.attrs);
        visit::visit_item_mod(self, node);
        self.in_test = before;
    }
    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.public_item(&node.vis, &node.attrs);
        self.function(&node.sig, &node.attrs, &node.block);
    }
    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.public_item(&node.vis, &node.attrs);
        self.function(&node.sig, &node.attrs, &node.block);
    }
    fn visit_item_struct(&mut self, node: &'ast syn::ItemStruct) {
        self.public_item(&node.vis, &node.attrs);
        // What a type is that wraps one value says the type's own text.
        node.fields
            .iter()
            .filter(|field| field.ident.is_some())
            .for_each(|field| self.public_item(&field.vis, &field.attrs));
    }
    fn visit_item_enum(&mut self, node: &'ast syn::ItemEnum) {
        self.public_item(&node.vis, &node.attrs);
    }
    fn visit_item_trait(&mut self, node: &'ast syn::ItemTrait) {
        self.public_item(&node.vis, &node.attrs);
        visit::visit_item_trait(self, node);
    }
    fn visit_expr_if(&mut self, node: &'ast syn::ExprIf) {
        self.visit_expr(&node.cond);
        self.nested(|walk| walk.visit_block(&node.then_branch));
        // `else if` is a branch beside, not below.
        match node.else_branch.as_ref().map(|(_, branch)| branch.as_ref()) {
            Some(syn::Expr::If(chained)) => self.visit_expr_if(chained),
            Some(other) => self.nested(|walk| walk.visit_expr(other)),
            None => {}
        }
    }
    fn visit_expr_match(&mut self, node: &'ast syn::ExprMatch) {
        self.nested(|walk| visit::visit_expr_match(walk, node));
    }
    fn visit_expr_for_loop(&mut self, node: &'ast syn::ExprForLoop) {
        self.nested(|walk| visit::visit_expr_for_loop(walk, node));
    }
    fn visit_expr_while(&mut self, node: &'ast syn::ExprWhile) {
        self.nested(|walk| visit::visit_expr_while(walk, node));
    }
    fn visit_expr_loop(&mut self, node: &'ast syn::ExprLoop) {
        self.nested(|walk| visit::visit_expr_loop(walk, node));
    }
    fn visit_expr_method_call(&mut self, node: &'ast syn::ExprMethodCall) {
        let risky = node.method == "unwrap" || node.method == "expect";
        self.counts.unwraps += usize::from(risky && !self.in_test);
        visit::visit_expr_method_call(self, node);
    }
}
