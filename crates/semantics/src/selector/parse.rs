//! The grammar of label selector texts: a lexer and a parser with one token of look-ahead.

use super::{Operator, Requirement, SelectorError, syntax};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    End,
    Comma,
    Open,
    Close,
    Not,
    Word,
    Operator(Operator),
}

/// What the parser expects: in the place of a value, `in` and `notin` are words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    KeyAndOperator,
    Values,
}

const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn lex(text: &str) -> Vec<(Token, &str)> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(SPACES);
    while let Some(first) = rest.chars().next() {
        let end = if is_special(first) {
            symbol_length(rest)
        } else {
            rest.find(|c| is_special(c) || SPACES.contains(&c))
                .unwrap_or(rest.len())
        };
        let (word, tail) = rest.split_at(end);
        tokens.push((token(word), word));
        rest = tail.trim_start_matches(SPACES);
    }
    tokens
}

fn symbol_length(rest: &str) -> usize {
    if rest.starts_with("==") || rest.starts_with("!=") {
        2
    } else {
        1
    }
}

fn token(word: &str) -> Token {
    match word {
        "," => Token::Comma,
        "(" => Token::Open,
        ")" => Token::Close,
        "!" => Token::Not,
        "=" => Token::Operator(Operator::Equals),
        "==" => Token::Operator(Operator::DoubleEquals),
        "!=" => Token::Operator(Operator::NotEquals),
        ">" => Token::Operator(Operator::GreaterThan),
        "<" => Token::Operator(Operator::LessThan),
        "in" => Token::Operator(Operator::In),
        "notin" => Token::Operator(Operator::NotIn),
        _ => Token::Word,
    }
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    position: usize,
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser {
        tokens: lex(text),
        position: 0,
    };
    let mut requirements = Vec::new();
    loop {
        match parser.look(Context::Values) {
            (Token::Word | Token::Not, _) => {
                let requirement = parser
                    .requirement()
                    .map_err(|error| SelectorError::new(format!("unable to parse requirement: {error}")))?;
                requirements.push(requirement);
            }
            (Token::End, _) => return Ok(requirements),
            (_, found) => return Err(expected(found, "!, identifier, or 'end of string'")),
        }
        match parser.take(Context::Values) {
            (Token::End, _) => return Ok(requirements),
            (Token::Comma, _) => match parser.look(Context::Values) {
                (Token::Word | Token::Not, _) => {}
                (_, found) => return Err(expected(found, "identifier after ','")),
            },
            (_, found) => return Err(expected(found, "',' or 'end of string'")),
        }
    }
}

fn expected(found: &str, what: &str) -> SelectorError {
    SelectorError::new(format!("found '{found}', expected: {what}"))
}

impl<'a> Parser<'a> {
    fn look(&self, context: Context) -> (Token, &'a str) {
        match self.tokens.get(self.position) {
            None => (Token::End, ""),
            Some((Token::Operator(Operator::In | Operator::NotIn), word)) if context == Context::Values => {
                (Token::Word, word)
            }
            Some(found) => *found,
        }
    }

    fn take(&mut self, context: Context) -> (Token, &'a str) {
        let found = self.look(context);
        self.position += 1;
        found
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut key) = self.take(Context::Values);
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.take(Context::Values);
        }
        if token != Token::Word {
            return Err(expected(key, "identifier"));
        }
        syntax::check_key(key, "<nil>")?;
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, []);
        }
        if matches!(self.look(Context::Values).0, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, []);
        }
        let operator = match self.take(Context::KeyAndOperator) {
            (Token::Operator(operator), _) => operator,
            (_, found) => return Err(expected(found, "in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.list()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.look(Context::Values).0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take(Context::Values) {
            (Token::Word, word) => Ok(word.to_owned()),
            (_, found) => Err(expected(found, "identifier")),
        }
    }

    fn list(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.take(Context::Values) {
            (Token::Open, _) => {}
            (_, found) => return Err(SelectorError::new(format!("found '{found}' expected: '('"))),
        }
        let (next, found) = self.look(Context::Values);
        match next {
            Token::Word | Token::Comma => {}
            Token::Close => {
                self.position += 1;
                return Ok(vec![String::new()]);
            }
            _ => return Err(expected(found, "',', ')' or identifier")),
        }
        let values = self.words()?;
        match self.take(Context::Values) {
            (Token::Close, _) => Ok(values),
            _ => Err(expected(found, "')'")),
        }
    }

    /// A comma-separated list where an empty place stands for the empty value.
    fn words(&mut self) -> Result<Vec<String>, SelectorError> {
        let mut values = Vec::new();
        loop {
            match self.take(Context::Values) {
                (Token::Word, word) => {
                    values.push(word.to_owned());
                    match self.look(Context::Values) {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, found) => return Err(expected(found, "',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.look(Context::Values).0 {
                        Token::Close => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            self.position += 1;
                            values.push(String::new());
                        }
                        _ => {}
                    }
                }
                (_, found) => return Err(expected(found, "',', or identifier")),
            }
        }
    }
}
