//! Prompt templates (minijinja), read and checked once at start.

use std::{fs, path::Path};

use minijinja::{Environment, UndefinedBehavior, Value, context, syntax::SyntaxConfig};

use super::RagError;
use crate::models::{Message, Speaker};

/// What a model is told to say when the passages do not hold the answer.
pub const ABSTENTION: &str = "The documents do not contain the answer.";

const SYSTEM: &str = "answer.system.jinja";
const USER: &str = "answer.user.jinja";

/// The templates of an answer.
pub struct Prompts {
    environment: Environment<'static>,
}

/// A passage as the templates see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptPassage<'a> {
    /// What the model cites it by, from 1.
    pub number: usize,
    pub title: Option<&'a str>,
    pub text: &'a str,
}

impl Prompts {
    /// Reads the templates of `folder`, or the built-in ones, and renders each once.
    pub fn load(folder: Option<&Path>) -> Result<Self, RagError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax =
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(problem)?;
        environment.set_syntax(syntax);
        let built_in = [
            (SYSTEM, include_str!("../../prompts/answer.system.jinja")),
            (USER, include_str!("../../prompts/answer.user.jinja")),
        ];
        for (name, text) in built_in {
            let text = match folder {
                Some(folder) => {
                    let path = folder.join(name);
                    fs::read_to_string(&path)
                        .map_err(|error| RagError::Prompt(format!("{}: {error}", path.display())))?
                }
                None => text.to_owned(),
            };
            environment.add_template_owned(name, text).map_err(problem)?;
        }
        let prompts = Self { environment };
        prompts.check()?;
        Ok(prompts)
    }

    /// The conversation that asks for an answer from these passages.
    pub fn answer(&self, question: &str, passages: &[PromptPassage<'_>]) -> Result<Vec<Message>, RagError> {
        let passages: Vec<Value> = passages
            .iter()
            .map(|passage| context!(number => passage.number, title => passage.title, text => passage.text))
            .collect();
        let variables = context!(question => question, passages => passages, abstention => ABSTENTION);
        let render = |name: &str| {
            self.environment
                .get_template(name)
                .and_then(|template| template.render(&variables))
                .map_err(problem)
        };
        Ok(vec![
            Message { speaker: Speaker::System, text: render(SYSTEM)? },
            Message { speaker: Speaker::User, text: render(USER)? },
        ])
    }

    /// A template that loses the question or a passage would fail silently in every answer.
    fn check(&self) -> Result<(), RagError> {
        let passage = PromptPassage { number: 1, title: Some("check-title"), text: "check-passage" };
        let messages = self.answer("check-question", &[passage])?;
        let rendered: String = messages.into_iter().map(|message| message.text).collect();
        for needed in ["check-question", "check-passage"] {
            if !rendered.contains(needed) {
                return Err(RagError::Prompt(format!(
                    "the {} is not in what the templates render",
                    &needed[6..]
                )));
            }
        }
        Ok(())
    }
}

fn problem(error: minijinja::Error) -> RagError {
    RagError::Prompt(format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_are_numbered_and_come_before_the_question() {
        let prompts = Prompts::load(None).unwrap();
        let passages = [
            PromptPassage { number: 1, title: Some("Fares"), text: "A bicycle costs 3 euros." },
            PromptPassage { number: 2, title: None, text: "Dogs travel free." },
        ];
        let messages = prompts.answer("What does a bicycle cost?", &passages).unwrap();
        let user = &messages[1].text;
        assert!(user.find("[1]").unwrap() < user.find("[2]").unwrap());
        assert!(user.find("Dogs travel free.").unwrap() < user.find("What does a bicycle cost?").unwrap());
        assert!(messages.iter().any(|message| message.text.contains(ABSTENTION)));
    }

    #[test]
    fn a_template_that_loses_the_question_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(SYSTEM), "Answer.").unwrap();
        fs::write(folder.path().join(USER), "{% for p in passages %}{{ p.text }}{% endfor %}").unwrap();
        let error = Prompts::load(Some(folder.path())).err().unwrap().to_string();
        assert!(error.contains("question"), "{error}");
        fs::write(folder.path().join(USER), "{{ question }} {{ passagen }}").unwrap();
        let error = Prompts::load(Some(folder.path())).err().unwrap().to_string();
        assert!(error.contains("answer.user.jinja"), "{error}");
    }
}
